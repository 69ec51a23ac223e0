package channels

import (
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// formatConda is the one content format so far.
const formatConda = "conda"

// channelRow is a row of channels.channels; field names follow the columns.
type channelRow struct {
	ID           uuid.UUID
	Namespace    string
	Name         string
	Description  string
	Private      bool
	Kind         int16
	Format       string
	Mirror       []byte
	TTL          int64 `db:"ttl"`
	SizeLimit    *int64
	Size         int64
	FileCount    int64
	PackageCount int64
	Head         int64
	// Floor is the oldest revision of which all rows are still there.
	Floor     int64
	CreatedAt time.Time
	UpdatedAt time.Time

	credentials bool // of a channel that is being made: its URL came with some
}

// channelColumns are the columns of a channelRow.
const channelColumns = `id, namespace, name, description, private, kind, format, mirror, ttl, size_limit, size, file_count,
	package_count, head, floor, created_at, updated_at`

func (c *channelRow) kind() channelsv1.ChannelKind { return channelsv1.ChannelKind(c.Kind) }

// resource is the channel as permissions see it.
func (c *channelRow) resource() authz.Resource {
	return authz.Resource{Kind: authz.Channel, ID: c.ID.String(), Name: c.Name, Namespace: c.Namespace, Public: !c.Private}
}

// mirrorSettings decodes the mirror settings; nil for hosted channels.
func (c *channelRow) mirrorSettings() (*channelsv1.MirrorSettings, error) {
	if c.Mirror == nil {
		return nil, nil
	}
	m := new(channelsv1.MirrorSettings)
	if err := proto.Unmarshal(c.Mirror, m); err != nil {
		return nil, fault.New(fault.Internal, "mirror settings of channel %s: %w", c.ID, err)
	}
	return m, nil
}

// fileRow is a file listed at some revision.
type fileRow struct {
	ID          uuid.UUID
	Path        string
	AddedRev    int64
	Digest      *blob.Digest
	MD5         []byte `db:"md5"`
	Size        int64
	Name        string
	Version     string
	Build       string
	BuildNumber int64
	Arch        string
	Record      []byte
	Redirect    bool
	URL         string `db:"url"`
	CreatedAt   time.Time
	Uploader    string
}

const fileColumns = `id, path, added_rev, digest, md5, size, name, version, build, build_number, arch, record, redirect, url,
	created_at, uploader`

// packageRow is a package name in a channel.
type packageRow struct {
	Name           string
	Summary        string
	Description    string
	URL            string `db:"url"`
	FileCount      int64
	CurrentVersion string
	Subdirs        []string
	UpdatedAt      *time.Time
}

const packageColumns = `name, summary, description, url, file_count, current_version, subdirs, updated_at`

// rendition is an index file at a revision.
type rendition struct {
	Path      string
	Revision  int64
	Digest    blob.Digest
	Size      int64
	CreatedAt time.Time
}
