-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX CONCURRENTLY IF NOT EXISTS packages_grams ON channels.packages USING gin (channels.grams(name));
CREATE INDEX CONCURRENTLY IF NOT EXISTS packages_summary_grams ON channels.packages USING gin (channels.grams(summary)) WHERE summary NOT IN ('', 'n/a');
CREATE INDEX CONCURRENTLY IF NOT EXISTS packages_description_grams ON channels.packages USING gin (channels.grams(description)) WHERE description NOT IN ('', 'n/a');
CREATE INDEX CONCURRENTLY IF NOT EXISTS packages_by_name ON channels.packages (name, channel_id);

-- +goose Down
DROP INDEX CONCURRENTLY IF EXISTS channels.packages_by_name;
DROP INDEX CONCURRENTLY IF EXISTS channels.packages_description_grams;
DROP INDEX CONCURRENTLY IF EXISTS channels.packages_summary_grams;
DROP INDEX CONCURRENTLY IF EXISTS channels.packages_grams;
