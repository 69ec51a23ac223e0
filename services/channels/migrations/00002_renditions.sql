-- +goose Up
-- Revisions from here on can be shown in full; of earlier ones some rows are gone.
ALTER TABLE channels.channels ADD COLUMN floor bigint NOT NULL DEFAULT 1;

-- Which revisions changed a subdir: an index file of revision r shows revision n exactly if nothing changed in (r, n].
CREATE TABLE channels.conda_changes (
    channel_id uuid NOT NULL,
    subdir     text COLLATE "C" NOT NULL,
    revision   bigint NOT NULL,
    PRIMARY KEY (channel_id, subdir, revision)
);
INSERT INTO channels.conda_changes (channel_id, subdir, revision)
SELECT channel_id, arch, added_rev FROM channels.files
UNION SELECT channel_id, arch, removed_rev FROM channels.files WHERE removed_rev IS NOT NULL
UNION SELECT channel_id, subdir, revision FROM channels.conda_subdirs
UNION SELECT channel_id, split_part(path, '/', 1), revision FROM channels.renditions WHERE path LIKE '%/repodata_shards.msgpack.zst';

-- What stored packages say of themselves beside their records, for channeldata.json. It follows from the bytes alone.
CREATE TABLE channels.conda_facts (
    channel_id uuid NOT NULL,
    digest     bytea NOT NULL CHECK (octet_length(digest) = 32),
    facts      bytea NOT NULL,                 -- JSON
    PRIMARY KEY (channel_id, digest)
);

-- A date finds its revision.
CREATE INDEX revisions_created ON channels.revisions (channel_id, created_at);

-- +goose Down
DROP INDEX channels.revisions_created;
DROP TABLE channels.conda_facts, channels.conda_changes;
ALTER TABLE channels.channels DROP COLUMN floor;
