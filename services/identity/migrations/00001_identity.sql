-- +goose Up

-- One row. Whatever changes a role, key or user raises version in its transaction; the row's lock also puts those
-- changes in one order, so that a snapshot of a version is the same for everybody.
CREATE TABLE identity.state (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint  NOT NULL
);
INSERT INTO identity.state (version) VALUES (1);

-- A deleted user's row stays: the audit log and uploads refer to its id.
CREATE TABLE identity.users (
    id          uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    username    text        NOT NULL,
    name        text        NOT NULL,
    avatar_url  text        NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now(),
    delete_time timestamptz
);
CREATE UNIQUE INDEX users_username ON identity.users (lower(username)) WHERE delete_time IS NULL;

-- All roles of everybody. subject is user/<uuid> or service/<name>; there is one role for a subject and resource.
CREATE TABLE identity.bindings (
    subject     text        NOT NULL,
    resource    text        NOT NULL,
    role        text        NOT NULL CHECK (role IN ('owner', 'maintainer', 'member')),
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subject, resource)
);
CREATE INDEX bindings_resource ON identity.bindings (resource text_pattern_ops);

-- hash is SHA-256 of the whole key; the key itself is not kept.
CREATE TABLE identity.api_keys (
    id             text        PRIMARY KEY,
    user_id        uuid        NOT NULL REFERENCES identity.users,
    hash           bytea       NOT NULL,
    description    text        NOT NULL DEFAULT '',
    scoped         boolean     NOT NULL DEFAULT false,
    create_time    timestamptz NOT NULL DEFAULT now(),
    expire_time    timestamptz,
    last_used_time timestamptz
);
CREATE INDEX api_keys_user ON identity.api_keys (user_id);

-- The roles that a scoped key is narrowed to: resource with channel UUIDs, as bindings have it, and shown with the
-- channel's name as it was asked for.
CREATE TABLE identity.api_key_roles (
    key_id   text NOT NULL REFERENCES identity.api_keys ON DELETE CASCADE,
    resource text NOT NULL,
    role     text NOT NULL CHECK (role IN ('owner', 'maintainer', 'member')),
    shown    text NOT NULL,
    position int  NOT NULL,
    PRIMARY KEY (key_id, position)
);

CREATE TABLE identity.sessions (
    hash        bytea       PRIMARY KEY,
    user_id     uuid        NOT NULL REFERENCES identity.users,
    create_time timestamptz NOT NULL DEFAULT now(),
    expire_time timestamptz NOT NULL
);
CREATE INDEX sessions_user ON identity.sessions (user_id);
CREATE INDEX sessions_expire ON identity.sessions (expire_time);

CREATE TABLE identity.namespaces (
    name        text        PRIMARY KEY,
    create_time timestamptz NOT NULL DEFAULT now()
);
INSERT INTO identity.namespaces (name) VALUES ('default');

-- Ed25519 seeds, sealed with the master key. A key with a retire_time signs no more, and is deleted at that time.
CREATE TABLE identity.signing_keys (
    id          text        PRIMARY KEY,
    sealed      bytea       NOT NULL,
    create_time timestamptz NOT NULL,
    retire_time timestamptz
);

-- The audit log; rows come from outbox.audit with their ids.
CREATE TABLE identity.audit (
    id         bigint      PRIMARY KEY,
    time       timestamptz NOT NULL,
    actor      text        NOT NULL,
    key_id     text        NOT NULL,
    action     text        NOT NULL,
    resource   text        NOT NULL,
    details    jsonb       NOT NULL,
    request_id text        NOT NULL
);
CREATE INDEX audit_actor ON identity.audit (actor, id);
CREATE INDEX audit_resource ON identity.audit (resource, id);
