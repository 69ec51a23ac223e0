-- +goose Up
-- Other servers' copies of a channel, as they were registered.
CREATE TABLE channels.mirrors (
    id               uuid PRIMARY KEY,
    channel_id       uuid NOT NULL,
    url              text NOT NULL,               -- where clients find it
    api_endpoint     text NOT NULL,
    metrics_endpoint text NOT NULL,
    confirmed        boolean NOT NULL,            -- it said that it copies this channel
    created_at       timestamptz NOT NULL,
    UNIQUE (channel_id, url)
);

-- Mirror channels that shall be registered at their upstream. A row goes when that has worked, or is given up.
CREATE TABLE channels.announcements (
    id         uuid PRIMARY KEY,
    channel_id uuid NOT NULL,
    base_url   text NOT NULL,                     -- where this server is reached from outside
    sealed_key bytea,                             -- upstream's API key; NULL: none
    created_at timestamptz NOT NULL
);
CREATE INDEX announcements_channel ON channels.announcements (channel_id);

-- The trigrams of a text, for an index that finds parts of words. PostgreSQL's own extension for this is not part of
-- every installation; arrays and GIN are. A long text would make a long list: it gets the one gram '*' and is looked
-- through each time.
CREATE FUNCTION channels.grams(s text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
$$ SELECT CASE WHEN length(s) > 2000 THEN ARRAY['*']
   ELSE ARRAY(SELECT DISTINCT substr(lower(s), i, 3) FROM generate_series(1, length(s) - 2) i) END $$;

-- +goose Down
DROP FUNCTION channels.grams(text);
DROP TABLE channels.announcements, channels.mirrors;
