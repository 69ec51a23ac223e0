-- +goose Up
-- The plan that a mirror's head was made of: the next one is compared with it, not with the rows.
CREATE TABLE channels.applied (
    channel_id uuid PRIMARY KEY,
    revision   bigint NOT NULL,                -- the head that it made, or found made already
    plan       bytea NOT NULL CHECK (octet_length(plan) = 32),
    policy     smallint NOT NULL,              -- RemovalPolicy of the proto, with which it was applied
    files      bigint NOT NULL                 -- its files that the channel has
);

-- +goose Down
DROP TABLE channels.applied;
