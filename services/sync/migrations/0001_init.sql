-- +goose Up
CREATE TABLE sync.subdirs (
	channel_id    uuid        NOT NULL,
	subdir        text        NOT NULL,
	url           text        NOT NULL, -- of the upstream that was asked: a new URL forgets what the old one said
	index_path    text        NOT NULL, -- the index file that was read; empty for a subdir that upstream does not have
	etag          text        NOT NULL DEFAULT '',
	last_modified timestamptz,
	index_digest  bytea,                -- the index as it was received, compressed as it came
	records       bigint      NOT NULL DEFAULT 0,
	checked_at    timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (channel_id, subdir)
);

CREATE TABLE sync.status (
	channel_id  uuid PRIMARY KEY,
	url         text        NOT NULL,
	job_id      uuid        NOT NULL,
	result      jsonb       NOT NULL,
	finished_at timestamptz NOT NULL DEFAULT now(),
	-- What the last clean run was made from: upstream, settings and indexes. An equal one has nothing to do.
	fingerprint bytea
);

-- What a running job has stored of files whose SHA-256 the index does not tell, so that it asks for nothing twice after a
-- crash. The others are looked for in storage.
CREATE TABLE sync.downloads (
	job_id  uuid   NOT NULL,
	path    text   NOT NULL,
	want    bytea  NOT NULL, -- what the index said that it must be; an index that changed since wants another file
	digest  bytea  NOT NULL,
	size    bigint NOT NULL,
	noted_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (job_id, path)
);

-- Archives that a sync looked into and refused. Their bytes may be stored, by this or another channel, and must not be
-- taken for good because of that.
CREATE TABLE sync.rejected (
	channel_id uuid  NOT NULL,
	digest     bytea NOT NULL,
	error      text  NOT NULL,
	PRIMARY KEY (channel_id, digest)
);

-- +goose Down
DROP TABLE sync.rejected;
DROP TABLE sync.downloads;
DROP TABLE sync.status;
DROP TABLE sync.subdirs;
