-- +goose NO TRANSACTION
-- +goose Up
-- Names are looked through in memory: an index on their trigrams cost more at each first sync than all the rest of a row.
-- A release before this one that still runs finds the same without it, by a look at every name: with a million names a search
-- for one takes a second instead of a few milliseconds, until that process is replaced.
DROP INDEX CONCURRENTLY IF EXISTS channels.packages_grams;
-- In how many rows a text is decides how it is looked for. The planner takes no statistics from an index that leaves rows out.
CREATE STATISTICS IF NOT EXISTS channels.packages_summary_grams_stats ON (channels.grams(summary)) FROM channels.packages;
CREATE STATISTICS IF NOT EXISTS channels.packages_description_grams_stats ON (channels.grams(description)) FROM channels.packages;

-- +goose Down
DROP STATISTICS IF EXISTS channels.packages_description_grams_stats;
DROP STATISTICS IF EXISTS channels.packages_summary_grams_stats;
CREATE INDEX CONCURRENTLY IF NOT EXISTS packages_grams ON channels.packages USING gin (channels.grams(name));
