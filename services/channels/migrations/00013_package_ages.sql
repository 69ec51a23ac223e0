-- +goose NO TRANSACTION
-- +goose Up
-- Who keeps the names of a channel asks which came since.
CREATE INDEX CONCURRENTLY IF NOT EXISTS packages_created ON channels.packages (channel_id, created_at);

-- +goose Down
DROP INDEX CONCURRENTLY IF EXISTS channels.packages_created;
