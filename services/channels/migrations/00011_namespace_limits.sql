-- +goose Up
-- How much all channels of a namespace may hold together. Without a row there is no limit. A release before this one does
-- not look at it.
CREATE TABLE channels.namespace_limits (
	namespace  text   PRIMARY KEY,
	size_limit bigint NOT NULL CHECK (size_limit >= 0),
	used       bigint NOT NULL -- the sum of the channels' sizes
);
-- Whoever changes a channel's size changes the sum, a release before this one too.
-- +goose StatementBegin
CREATE FUNCTION channels.count_used() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE channels.namespace_limits SET used = used + coalesce(NEW.size, 0) - coalesce(OLD.size, 0) WHERE namespace = coalesce(NEW.namespace, OLD.namespace);
	RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER channels_used AFTER UPDATE OF size ON channels.channels
	FOR EACH ROW WHEN (NEW.size <> OLD.size) EXECUTE FUNCTION channels.count_used();
CREATE TRIGGER channels_unused AFTER INSERT OR DELETE ON channels.channels FOR EACH ROW EXECUTE FUNCTION channels.count_used();

-- +goose Down
DROP TRIGGER channels_unused ON channels.channels;
DROP TRIGGER channels_used ON channels.channels;
DROP FUNCTION channels.count_used;
DROP TABLE channels.namespace_limits;
