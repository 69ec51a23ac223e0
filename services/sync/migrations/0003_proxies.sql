-- +goose Up
-- What was last read of the indexes of proxied upstreams: one row for each family of index files in a directory.
CREATE TABLE sync.proxy_indexes (
	channel_id    uuid        NOT NULL,
	family        text        NOT NULL, -- full, shards, or file for a document that stands alone
	dir           text        NOT NULL, -- a subdir; for a document its whole path
	settings      bytea       NOT NULL, -- of the channel when it was read: other ones make it worthless
	source        text        NOT NULL, -- the path upstream
	etag          text        NOT NULL,
	last_modified timestamptz,
	source_digest bytea       NOT NULL, -- as it was received
	generation    text        NOT NULL, -- what clients are served belongs together if this is equal
	body          jsonb       NOT NULL, -- the document that others are derived from
	documents     jsonb       NOT NULL, -- what there is for clients, by path
	facts         bytea,                -- blob of the files that the index lists; see services/sync/plane
	former        bytea,                -- the same of the generation before
	base          text        NOT NULL DEFAULT '', -- where the files are, if not beside the index
	shards_base   text        NOT NULL DEFAULT '',
	modified_at   timestamptz NOT NULL, -- of the generation
	checked_at    timestamptz NOT NULL DEFAULT now(),
	failed_at     timestamptz,          -- of the last try, if it failed
	error         text        NOT NULL DEFAULT '',
	PRIMARY KEY (channel_id, family, dir)
);

-- Who asks an upstream for what, so that two processes do not. A holder that vanishes loses it within seconds.
CREATE TABLE sync.proxy_leases (
	channel_id uuid        NOT NULL,
	name       text        NOT NULL,
	owner      uuid        NOT NULL,
	expires_at timestamptz NOT NULL,
	PRIMARY KEY (channel_id, name)
);
CREATE INDEX proxy_leases_expiry ON sync.proxy_leases (expires_at);

-- +goose Down
DROP TABLE sync.proxy_leases, sync.proxy_indexes;
