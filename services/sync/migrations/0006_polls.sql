-- +goose Up
-- What came of asking upstreams whether they have changed.
CREATE TABLE sync.polls (
	channel_id uuid PRIMARY KEY,
	polled_at  timestamptz NOT NULL,
	changed_at timestamptz,              -- when it was last seen to have changed
	retried_at timestamptz,              -- when a sync was last started,
	retried    bytea,                    -- for which reasons, as SHA-256 digests in a row,
	retries    integer NOT NULL DEFAULT 0, -- and how often for none but these
	error      text NOT NULL DEFAULT '', -- why it could not be asked the last time
	failed_at  timestamptz               -- since when that is so
);

-- +goose Down
DROP TABLE sync.polls;
