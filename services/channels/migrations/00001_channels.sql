-- +goose Up
CREATE TABLE channels.channels (
    id            uuid PRIMARY KEY,
    namespace     text NOT NULL,
    name          text NOT NULL,               -- as its creator spelled it
    name_key      text COLLATE "C" NOT NULL,   -- lower case
    description   text NOT NULL DEFAULT '',
    private       boolean NOT NULL,
    kind          smallint NOT NULL CHECK (kind BETWEEN 1 AND 3), -- ChannelKind of the proto
    format        text NOT NULL DEFAULT 'conda',
    mirror        bytea,                       -- MirrorSettings of the proto: fields of newer versions survive
    ttl           bigint NOT NULL CHECK (ttl >= 0),               -- seconds
    size_limit    bigint CHECK (size_limit >= 0),                 -- bytes; NULL: none
    size          bigint NOT NULL DEFAULT 0,   -- bytes of the files at head, each counted where it is listed
    file_count    bigint NOT NULL DEFAULT 0,
    package_count bigint NOT NULL DEFAULT 0,   -- names with files
    head          bigint NOT NULL DEFAULT 0,   -- the revision that readers see; only the publisher moves it
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,        -- when head last moved
    created_by    text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX channels_name_key ON channels.channels (name_key);
CREATE INDEX channels_namespace ON channels.channels (namespace, name_key);

CREATE TABLE channels.revisions (
    channel_id uuid NOT NULL,
    number     bigint NOT NULL,
    created_at timestamptz NOT NULL,
    author     text NOT NULL,
    added      bigint NOT NULL,
    removed    bigint NOT NULL,
    cause      text NOT NULL,
    PRIMARY KEY (channel_id, number)
);

-- The content of revision n is the rows with added_rev <= n < removed_rev. A row is inserted once and closed once.
CREATE TABLE channels.files (
    channel_id   uuid NOT NULL,
    path         text COLLATE "C" NOT NULL,    -- <subdir>/<file name>
    added_rev    bigint NOT NULL,
    removed_rev  bigint,                       -- NULL: listed at head
    removed_at   timestamptz,
    id           uuid NOT NULL,                -- stays when a file is replaced
    digest       bytea CHECK (octet_length(digest) = 32), -- SHA-256; NULL: known, not stored
    md5          bytea CHECK (octet_length(md5) = 16),
    size         bigint NOT NULL,              -- bytes; negative if unknown
    name         text COLLATE "C" NOT NULL,
    version      text NOT NULL,
    build        text NOT NULL,
    build_number bigint NOT NULL,
    arch         text COLLATE "C" NOT NULL,    -- subdir
    record       bytea NOT NULL,               -- repodata record, JSON, byte for byte
    run_exports  bytea,                        -- JSON for the shard (CEP 21); NULL: unknown, or in the record
    redirect     boolean NOT NULL DEFAULT false, -- clients are sent upstream
    url          text NOT NULL DEFAULT '',     -- where upstream has it, if not at path
    indexed_ms   bigint NOT NULL,              -- first listed then (CEP 47), milliseconds; stays when a file is replaced
    created_at   timestamptz NOT NULL,         -- stays when a file is replaced
    uploader     text NOT NULL
);
CREATE UNIQUE INDEX files_live ON channels.files (channel_id, path) WHERE removed_rev IS NULL;
CREATE INDEX files_live_name ON channels.files (channel_id, name, arch) WHERE removed_rev IS NULL;
CREATE INDEX files_closed ON channels.files (channel_id, path) WHERE removed_rev IS NOT NULL;

-- Index files. A path serves its newest rendition that is not newer than the revision asked for.
CREATE TABLE channels.renditions (
    channel_id  uuid NOT NULL,
    path        text COLLATE "C" NOT NULL,
    revision    bigint NOT NULL,
    digest      bytea NOT NULL CHECK (octet_length(digest) = 32),
    size        bigint NOT NULL,
    created_at  timestamptz NOT NULL,
    replaced_at timestamptz,                   -- of a shard: no index names it since then
    PRIMARY KEY (channel_id, path, revision)
);
CREATE INDEX renditions_digest ON channels.renditions (channel_id, digest);
CREATE INDEX renditions_replaced ON channels.renditions (channel_id, replaced_at) WHERE replaced_at IS NOT NULL;

CREATE TABLE channels.packages (
    channel_id      uuid NOT NULL,
    name            text COLLATE "C" NOT NULL,
    summary         text NOT NULL DEFAULT '',
    description     text NOT NULL DEFAULT '',
    url             text NOT NULL DEFAULT '',
    file_count      bigint NOT NULL DEFAULT 0,
    current_version text NOT NULL DEFAULT '',  -- newest by conda's order; empty without files
    subdirs         text[] NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz,               -- when the newest version was added
    PRIMARY KEY (channel_id, name)
);

-- Every subdir that has or had files, with what a mirrored index says beside its records.
CREATE TABLE channels.conda_subdirs (
    channel_id uuid NOT NULL,
    subdir     text COLLATE "C" NOT NULL,
    revision   bigint NOT NULL,                -- the last one that changed it
    info       bytea,                          -- JSON object of upstream's index
    removed    text[] NOT NULL DEFAULT '{}',   -- file names, sorted
    PRIMARY KEY (channel_id, subdir)
);

-- The shard of each package name at head: a new shard index is these rows.
CREATE TABLE channels.conda_shards (
    channel_id uuid NOT NULL,
    subdir     text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    digest     bytea NOT NULL CHECK (octet_length(digest) = 32),
    revision   bigint NOT NULL,
    PRIMARY KEY (channel_id, subdir, name)
);

-- +goose Down
DROP TABLE channels.conda_shards, channels.conda_subdirs, channels.packages, channels.renditions, channels.files,
    channels.revisions, channels.channels;
