package blob

import (
	"context"
	"io"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// OpenOptions holds what a store's URL should not: credentials. They win over those in the URL.
type OpenOptions struct {
	AccessKey, SecretKey string
	Dir                  DirOptions
}

// Closable is a Store that holds files or connections. What Open returns is one.
type Closable interface {
	Store
	io.Closer
}

// Open opens the store that a --blob-url names:
//
//	/var/lib/entrepot/blobs              a directory, also as file:///var/lib/entrepot/blobs
//	s3://bucket/prefix?endpoint=host:port&region=r&insecure=1&path_style=1&create=1
//
// An S3 URL may carry credentials as s3://key:secret@bucket/…; no error and no log line repeats the URL for that reason.
// Unknown parameters are errors.
func Open(ctx context.Context, rawURL string, o OpenOptions) (Closable, error) {
	scheme, _, ok := strings.Cut(rawURL, "://")
	if !ok {
		if rawURL == "" {
			return nil, fault.Field("blob_url", "the blob store's URL is empty")
		}
		return OpenDir(filepath.Clean(rawURL), o.Dir)
	}
	u, err := url.Parse(rawURL)
	if err != nil { // err repeats the URL
		return nil, fault.Field("blob_url", "the blob store's URL cannot be read as one")
	}
	switch scheme {
	case "file":
		if u.Host != "" && u.Host != "localhost" || u.RawQuery != "" || !filepath.IsAbs(u.Path) {
			return nil, fault.Field("blob_url", "a file URL is file:///absolute/path and nothing else")
		}
		return OpenDir(filepath.Clean(u.Path), o.Dir)
	case "s3":
		c, err := parseS3(u)
		if err != nil {
			return nil, err
		}
		if o.AccessKey != "" {
			c.AccessKey, c.SecretKey = o.AccessKey, o.SecretKey
		}
		s, err := OpenS3(ctx, c)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	return nil, fault.Field("blob_url", "a blob store is a directory, file:// or s3://")
}

func parseS3(u *url.URL) (S3Config, error) {
	c := S3Config{Bucket: u.Hostname(), Prefix: u.Path, AccessKey: u.User.Username()}
	c.SecretKey, _ = u.User.Password()
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return c, fault.Field("blob_url", "the parameters of the blob store's URL cannot be read")
	}
	flags := map[string]*bool{"insecure": &c.Insecure, "path_style": &c.PathStyle, "create": &c.CreateBucket}
	texts := map[string]*string{"endpoint": &c.Endpoint, "region": &c.Region}
	for name, vs := range q {
		v := vs[len(vs)-1]
		if p := texts[name]; p != nil {
			*p = v
		} else if p := flags[name]; p == nil {
			return c, fault.Field("blob_url", "an S3 URL has no parameter %q", name)
		} else if v != "0" && v != "1" && v != "true" && v != "false" {
			return c, fault.Field("blob_url", "the parameter %q is 0 or 1", name)
		} else {
			*p = v == "1" || v == "true"
		}
	}
	return c, nil
}

// Close implements Closable: it closes idle connections. Requests under way go on.
func (s *S3) Close() error {
	s.idle()
	return nil
}
