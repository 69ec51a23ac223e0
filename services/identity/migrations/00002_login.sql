-- +goose Up

-- A user who is shut out: nothing is taken from them, and nothing they have is good for anything.
ALTER TABLE identity.users ADD COLUMN disable_time timestamptz;

-- Where a login was made, and when it was last used (to the minute; NULL: not since it was made).
ALTER TABLE identity.sessions ADD COLUMN last_used_time timestamptz;
ALTER TABLE identity.sessions ADD COLUMN provider text NOT NULL DEFAULT '';
ALTER TABLE identity.sessions ADD COLUMN address text NOT NULL DEFAULT '';
ALTER TABLE identity.sessions ADD COLUMN agent text NOT NULL DEFAULT '';

-- hash is in PHC form, with its parameters: $argon2id$v=19$m=…,t=…,p=…$salt$hash.
CREATE TABLE identity.passwords (
    user_id     uuid        PRIMARY KEY REFERENCES identity.users,
    hash        text        NOT NULL,
    change_time timestamptz NOT NULL DEFAULT now()
);

-- Accounts at login providers. Who somebody is there is subject, which a provider never gives to another person; names and
-- e-mail addresses pass on. An empty issuer was linked by hand, and is filled in by the first login.
CREATE TABLE identity.logins (
    provider        text        NOT NULL,
    subject         text        NOT NULL,
    issuer          text        NOT NULL DEFAULT '',
    user_id         uuid        NOT NULL REFERENCES identity.users,
    name            text        NOT NULL DEFAULT '',
    create_time     timestamptz NOT NULL DEFAULT now(),
    last_login_time timestamptz,
    PRIMARY KEY (provider, subject)
);
CREATE INDEX logins_user ON identity.logins (user_id);

-- Groups are subjects of bindings as group/<uuid>. Names differ in case: providers' do.
CREATE TABLE identity.groups (
    id          uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    name        text        NOT NULL,
    description text        NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX groups_name ON identity.groups (name);

-- source is the provider whose claims put the user in, or empty; each takes out only what it put in.
CREATE TABLE identity.group_members (
    group_id    uuid        NOT NULL REFERENCES identity.groups ON DELETE CASCADE,
    user_id     uuid        NOT NULL REFERENCES identity.users,
    source      text        NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (group_id, user_id, source)
);
CREATE INDEX group_members_user ON identity.group_members (user_id);
