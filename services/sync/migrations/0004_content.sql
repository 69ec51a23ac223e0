-- +goose Up
-- A digest of what an index says: servers send the same records packed anew, and nothing has to be done then.
ALTER TABLE sync.subdirs ADD COLUMN content bytea;

-- +goose Down
ALTER TABLE sync.subdirs DROP COLUMN content;
