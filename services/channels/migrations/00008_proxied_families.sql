-- +goose Up
-- Which generation of each family of index files a proxy channel is at. What was looked up in another one is not sure.
CREATE TABLE channels.proxied_families (
    channel_id uuid NOT NULL,
    family     text COLLATE "C" NOT NULL,
    generation text NOT NULL,
    PRIMARY KEY (channel_id, family)
);
-- When a file was last asked for, to the day; what nobody wants any more is let go.
ALTER TABLE channels.proxied ADD COLUMN used_at timestamptz NOT NULL DEFAULT now();
-- Package files that no index vouched for are not kept any more.
UPDATE channels.proxied SET fresh_until = 'epoch' WHERE family LIKE 'file:%' AND (path LIKE '%.conda' OR path LIKE '%.tar.bz2');

-- +goose Down
ALTER TABLE channels.proxied DROP COLUMN used_at;
DROP TABLE channels.proxied_families;
