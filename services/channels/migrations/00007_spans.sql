-- +goose Up
-- Where the records lie in the newest repodata.json of a subdir: the next one copies what has not changed.
CREATE TABLE channels.conda_spans (
    channel_id uuid NOT NULL,
    subdir     text COLLATE "C" NOT NULL,
    revision   bigint NOT NULL,
    digest     bytea NOT NULL CHECK (octet_length(digest) = 32), -- of that document
    spans      bytea NOT NULL,                                   -- JSON
    PRIMARY KEY (channel_id, subdir)
);

-- +goose Down
DROP TABLE channels.conda_spans;
