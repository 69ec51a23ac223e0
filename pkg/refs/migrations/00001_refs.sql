-- +goose Up
-- One row is one reference of an owner to a blob. Owners are rows of other schemas, named by kind and id.
CREATE TABLE refs.refs (
    digest     bytea NOT NULL CHECK (length(digest) = 32),
    owner_kind text NOT NULL,                                   -- table or notion of the owning service, such as channels.file
    owner_id   text NOT NULL,
    PRIMARY KEY (digest, owner_kind, owner_id)
);
CREATE INDEX refs_owner ON refs.refs (owner_kind, owner_id);

-- One row is one blob that garbage collection knows.
CREATE TABLE refs.blobs (
    digest       bytea PRIMARY KEY CHECK (length(digest) = 32),
    size         bigint NOT NULL CHECK (size >= 0),
    created_at   timestamptz NOT NULL DEFAULT now(),
    seen_at      timestamptz NOT NULL DEFAULT now(),            -- last put or reference; young blobs are never collected
    marked_at    timestamptz,                                   -- found unreferenced
    condemned_at timestamptz,                                   -- to be deleted, or deleted: no new reference
    deleted_at   timestamptz                                    -- the bytes are gone; the row is a tombstone
);
CREATE INDEX blobs_marked ON refs.blobs (marked_at) WHERE marked_at IS NOT NULL;
CREATE INDEX blobs_condemned ON refs.blobs (condemned_at) WHERE condemned_at IS NOT NULL;
