-- +goose Up
-- The job that made the revision, of those that do not make another one when they are tried again. A release before this one
-- does not look at it, and would make another one.
ALTER TABLE channels.revisions ADD COLUMN job uuid;

-- +goose Down
ALTER TABLE channels.revisions DROP COLUMN job;
