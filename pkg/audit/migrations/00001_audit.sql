-- +goose Up
CREATE TABLE outbox.audit (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time       timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor      text        NOT NULL,
    key_id     text        NOT NULL DEFAULT '',
    action     text        NOT NULL,
    resource   text        NOT NULL,
    details    jsonb       NOT NULL DEFAULT '{}',
    request_id text        NOT NULL DEFAULT ''
);
