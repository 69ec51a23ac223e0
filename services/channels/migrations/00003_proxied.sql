-- +goose Up
-- What is stored of proxy channels, one row a path. It has no revisions: its truth is upstream, and this is a cache.
CREATE TABLE channels.proxied (
    channel_id  uuid NOT NULL,
    path        text COLLATE "C" NOT NULL,
    digest      bytea NOT NULL CHECK (octet_length(digest) = 32),
    size        bigint NOT NULL,
    want        bytea NOT NULL DEFAULT '',     -- what the upstream's index announced: SHA-256, else MD5, else nothing
    family      text NOT NULL DEFAULT '',      -- index files that show one state of the upstream switch together
    generation  text NOT NULL DEFAULT '',
    is_index    boolean NOT NULL DEFAULT false,
    fresh_until timestamptz,                   -- null: until its index says something else
    modified_at timestamptz NOT NULL,
    PRIMARY KEY (channel_id, path)
);
CREATE INDEX proxied_family ON channels.proxied (channel_id, family) WHERE family <> '';
CREATE INDEX proxied_digest ON channels.proxied (channel_id, digest);

-- +goose Down
DROP TABLE channels.proxied;
