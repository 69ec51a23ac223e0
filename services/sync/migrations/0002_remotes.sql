-- +goose Up
-- How the upstream of a channel is reached, besides its URL: credentials, authorities, proxy, rates. A channel without a
-- row is asked without any of that.
CREATE SEQUENCE sync.remote_versions;

CREATE TABLE sync.remotes (
	channel_id  uuid PRIMARY KEY,
	sealed      bytea       NOT NULL, -- a StoredRemote, sealed for this channel
	-- Never the same twice, also for a row that was deleted and made again: processes compare it with what they have.
	version     bigint      NOT NULL DEFAULT nextval('sync.remote_versions'),
	updated_at  timestamptz NOT NULL DEFAULT now(),
	-- Set while the channel is about to be made, with its name: a row whose channel never came is dropped.
	reserved_at timestamptz,
	reserved_as text        NOT NULL DEFAULT ''
);

-- +goose Down
DROP TABLE sync.remotes;
DROP SEQUENCE sync.remote_versions;
