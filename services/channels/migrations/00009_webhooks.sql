-- +goose Up
-- Servers that are told of what happens to a channel.
CREATE TABLE channels.webhooks (
    id         uuid PRIMARY KEY,
    channel_id uuid NOT NULL,
    url        text NOT NULL,
    events     text[] NOT NULL,
    disabled   boolean NOT NULL DEFAULT false,
    secret     bytea NOT NULL,                    -- sealed with the master key
    created_at timestamptz NOT NULL
);
CREATE INDEX webhooks_channel ON channels.webhooks (channel_id);

-- What they are told, and what became of it; the last ones of each.
CREATE TABLE channels.deliveries (
    id         uuid PRIMARY KEY,
    webhook_id uuid NOT NULL,
    channel_id uuid NOT NULL,
    event      text NOT NULL,
    body       bytea NOT NULL,
    state      smallint NOT NULL,                 -- Delivery.State of the proto
    attempts   int NOT NULL DEFAULT 0,
    status     int NOT NULL DEFAULT 0,
    error      text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    tried_at   timestamptz
);
CREATE INDEX deliveries_webhook ON channels.deliveries (webhook_id, created_at);
CREATE INDEX deliveries_channel ON channels.deliveries (channel_id);

-- +goose Down
DROP TABLE channels.deliveries, channels.webhooks;
