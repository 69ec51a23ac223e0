package quetzdb

import (
	"context"
	"strings"
	"time"
)

// User is a user. One without a name is none: it stands for an API key of its own roles, or was deleted.
type User struct {
	ID, Username, Role string
	// Name and AvatarURL are from the profile.
	Name, AvatarURL string
}

// Users returns all users.
func (d *DB) Users(ctx context.Context) ([]*User, error) {
	var all []*User
	byID := map[string]*User{}
	err := d.each(ctx, "users", "", "id", func(r row) error {
		u := &User{ID: r.id("id"), Username: r.text("username"), Role: r.text("role")}
		all, byID[u.ID] = append(all, u), u
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, d.each(ctx, "profiles", "", "user_id", func(r row) error {
		if u := byID[r.id("user_id")]; u != nil {
			u.Name, u.AvatarURL = r.text("name"), r.text("avatar_url")
		}
		return nil
	})
}

// Channel is a channel.
type Channel struct {
	Name, Description string
	Private           bool
	// MirrorURL is empty for local channels; MirrorMode is mirror or proxy.
	MirrorURL, MirrorMode           string
	Includelist, Excludelist, Proxy []string
	SizeLimit                       *int64
	// TTL in seconds; nil if the schema has none.
	TTL *int64
}

// Channels returns all channels by name.
func (d *DB) Channels(ctx context.Context) (all []*Channel, err error) {
	err = d.each(ctx, "channels", "", "name", func(r row) error {
		c := &Channel{
			Name: r.text("name"), Description: r.text("description"), Private: r.flag("private"),
			MirrorURL: r.text("mirror_channel_url"), MirrorMode: r.text("mirror_mode"),
		}
		c.Includelist, c.Excludelist, c.Proxy = decodeLists(r.text("channel_metadata"))
		if n, ok := r.number("size_limit"); ok && n >= 0 {
			c.SizeLimit = &n
		}
		if n, ok := r.number("ttl"); ok {
			c.TTL = &n
		}
		all = append(all, c)
		return nil
	})
	return all, err
}

// Member is a user's role in a channel, or on one of its packages.
type Member struct{ Channel, Package, UserID, Role string }

// Members returns the roles on channels, then those on packages.
func (d *DB) Members(ctx context.Context) (all []Member, err error) {
	for _, t := range []struct{ table, order string }{{"channel_members", "channel_name, user_id"}, {"package_members", "channel_name, package_name, user_id"}} {
		if err := d.each(ctx, t.table, "", t.order, func(r row) error {
			all = append(all, Member{r.text("channel_name"), r.text("package_name"), r.id("user_id"), r.text("role")})
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Package is a package name in a channel.
type Package struct{ Name, Summary, Description, URL string }

// Packages returns a channel's packages by name.
func (d *DB) Packages(ctx context.Context, channel string) (all []Package, err error) {
	err = d.each(ctx, "packages", channel, "name", func(r row) error {
		all = append(all, Package{r.text("name"), r.text("summary"), r.text("description"), r.text("url")})
		return nil
	})
	return all, err
}

// Version is a package file.
type Version struct {
	Platform, Filename string
	// Info is info/index.json with size and digests, as JSON.
	Info       []byte
	UploaderID string
	Created    time.Time
	// Downloads is the total; 0 if the schema keeps none.
	Downloads int64
}

// Versions calls fn with a channel's files by path.
func (d *DB) Versions(ctx context.Context, channel string, fn func(Version) error) error {
	return d.each(ctx, "package_versions", channel, "platform, filename", func(r row) error {
		v := Version{Platform: r.text("platform"), Filename: r.text("filename"), Info: []byte(r.text("info")), UploaderID: r.id("uploader_id"), Created: r.time("time_created")}
		v.Downloads, _ = r.number("download_count")
		return fn(v)
	})
}

// Key is an API key. If UserID is not OwnerID, the key has roles of its own: those of the user UserID.
type Key struct {
	Key, Description string
	Expires          time.Time // the day through which it is valid; zero: no end
	UserID, OwnerID  string
}

// Keys returns the keys that were not deleted.
func (d *DB) Keys(ctx context.Context) (all []Key, err error) {
	err = d.each(ctx, "api_keys", "", "key", func(r row) error {
		if !r.flag("deleted") {
			all = append(all, Key{r.text("key"), r.text("description"), r.time("expire_at"), r.id("user_id"), r.id("owner_id")})
		}
		return nil
	})
	return all, err
}

// Mirror is a registered mirror.
type Mirror struct{ Channel, URL, APIEndpoint, MetricsEndpoint string }

// Mirrors returns the registered mirrors of a channel.
func (d *DB) Mirrors(ctx context.Context, channel string) (all []Mirror, err error) {
	err = d.each(ctx, "channel_mirrors", channel, "url", func(r row) error {
		all = append(all, Mirror{r.text("channel_name"), r.text("url"), r.text("api_endpoint"), r.text("metrics_endpoint")})
		return nil
	})
	return all, err
}

// Point is a number of downloads in a period.
type Point struct {
	Path string // <platform>/<file name>
	// Period is H, D, M or Y. Each download is in all of them.
	Period string
	At     time.Time
	Count  int64
}

// Downloads returns what was counted of a channel's files, by path.
func (d *DB) Downloads(ctx context.Context, channel string) (all []Point, err error) {
	err = d.each(ctx, "aggregated_metrics", channel, "platform, filename, period, timestamp", func(r row) error {
		if r.text("metric_name") != "download" {
			return nil
		}
		n, _ := r.number("count")
		// SQLAlchemy stores the names of an enumeration, and those are hour, day, month and year.
		period := strings.ToUpper(r.text("period"))
		if period == "" || n <= 0 {
			return nil
		}
		all = append(all, Point{r.text("platform") + "/" + r.text("filename"), period[:1], r.time("timestamp"), n})
		return nil
	})
	return all, err
}

// Rows counts the rows of a table; none if it is not there.
func (d *DB) Rows(ctx context.Context, table string) (n int64, err error) {
	err = d.each(ctx, table, "", "1", func(row) error { n++; return nil })
	return n, err
}
