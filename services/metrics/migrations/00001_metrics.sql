-- +goose Up
-- What is counted: a file of a channel, or with an empty path the channel itself.
CREATE TABLE metrics.items (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel_id uuid NOT NULL,
    path       text COLLATE "C" NOT NULL,      -- <subdir>/<file name>
    package    text COLLATE "C" NOT NULL,      -- by the file's name; empty if that tells none
    total      bigint NOT NULL                 -- the sum of its series; no index, so that adding to it stays cheap
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX items_path ON metrics.items (channel_id, path) INCLUDE (id);
CREATE INDEX items_package ON metrics.items (channel_id, package);

-- Every download is in exactly one row: in its hour first; when hours are too old to be kept, in its day, and so on.
CREATE TABLE metrics.series (
    item_id bigint NOT NULL,
    source  bigint NOT NULL,                   -- 0: downloads from here; else an id of metrics.pulls
    period  smallint NOT NULL CHECK (period BETWEEN 1 AND 4), -- Interval of the proto
    at      timestamptz NOT NULL,              -- when the period begins, UTC
    n       bigint NOT NULL,
    PRIMARY KEY (item_id, at, period, source)
) WITH (fillfactor = 70);
CREATE INDEX series_age ON metrics.series (period, at);
CREATE INDEX series_source ON metrics.series (source) WHERE source <> 0;

-- Which batches of a gateway were added: one row for each of its starts. Gaps are batches that never came.
CREATE TABLE metrics.sources (
    instance   text NOT NULL,
    epoch      bigint NOT NULL,
    seen       int8multirange NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (instance, epoch)
);
CREATE INDEX sources_age ON metrics.sources (updated_at);

-- Registered mirrors whose counts were asked for. The points of a pull and pulled_until change together.
CREATE TABLE metrics.pulls (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel_id   uuid NOT NULL,
    mirror_id    uuid NOT NULL,
    endpoint     text NOT NULL,
    pulled_until timestamptz,
    total        bigint NOT NULL DEFAULT 0,
    asked_at     timestamptz,
    error        text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (channel_id, mirror_id)
);

-- Channels that were deleted: their last counts may still be on their way.
CREATE TABLE metrics.gone (
    channel_id uuid PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE metrics.gone, metrics.pulls, metrics.sources, metrics.series, metrics.items;
