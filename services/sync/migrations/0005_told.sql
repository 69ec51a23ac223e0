-- +goose Up
-- Whether channels has taken note of the generation, and of the files that it made doubtful. Until it has, it is told again.
ALTER TABLE sync.proxy_indexes ADD COLUMN told boolean NOT NULL DEFAULT false;

-- +goose Down
ALTER TABLE sync.proxy_indexes DROP COLUMN told;
