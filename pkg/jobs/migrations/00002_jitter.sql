-- +goose Up
-- A tick's job starts up to this much after it, so that what many schedules ask of one server comes spread out.
ALTER TABLE jobs.schedules ADD COLUMN jitter interval NOT NULL DEFAULT '0';

-- +goose Down
ALTER TABLE jobs.schedules DROP COLUMN jitter;
