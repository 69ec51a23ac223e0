package pkgtree

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// s3Tree is a prefix of a bucket.
type s3Tree struct {
	client *minio.Client
	bucket string
	prefix string // empty, or with a slash at its end
	idle   func()
}

func openS3(ctx context.Context, place string, getenv func(string) string) (Tree, error) {
	u, err := url.Parse(place)
	if err != nil || u.Hostname() == "" { // the error would repeat the URL, and that may hold a secret
		return nil, fault.New(fault.Invalid, "the S3 URL cannot be read; write it like s3://bucket/prefix?endpoint=host:port")
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the parameters of the S3 URL cannot be read")
	}
	on := func(name string) bool { v := q.Get(name); return v == "1" || v == "true" }
	for name := range q {
		switch name {
		case "endpoint", "region", "insecure", "path_style":
		default:
			return nil, fault.New(fault.Invalid, "an S3 URL has no parameter %q", name)
		}
	}
	host, secure := q.Get("endpoint"), !on("insecure")
	if scheme, rest, ok := strings.Cut(host, "://"); ok {
		host, secure = strings.TrimSuffix(rest, "/"), scheme == "https"
	}
	if host == "" {
		host = "s3.amazonaws.com"
	}
	key, secret, session := u.User.Username(), "", ""
	if key != "" {
		secret, _ = u.User.Password()
	} else {
		key, secret, session = getenv("AWS_ACCESS_KEY_ID"), getenv("AWS_SECRET_ACCESS_KEY"), getenv("AWS_SESSION_TOKEN")
	}
	transport, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, err
	}
	opts := &minio.Options{
		Creds: credentials.NewStaticV4(key, secret, session), Secure: secure, Region: q.Get("region"), Transport: transport,
	}
	if on("path_style") {
		opts.BucketLookup = minio.BucketLookupPath
	}
	c, err := minio.New(host, opts)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the S3 endpoint is not a host: %w", err)
	}
	t := &s3Tree{client: c, bucket: u.Hostname(), prefix: strings.Trim(u.Path, "/"), idle: transport.CloseIdleConnections}
	if t.prefix != "" {
		t.prefix += "/"
	}
	ok, err := c.BucketExists(ctx, t.bucket)
	if err != nil {
		return nil, s3Error(err)
	}
	if !ok {
		return nil, fault.New(fault.NotFound, "there is no S3 bucket %q", t.bucket)
	}
	return t, nil
}

func (t *s3Tree) String() string { return "s3://" + t.bucket + "/" + strings.TrimSuffix(t.prefix, "/") }

func (t *s3Tree) Close() error { t.idle(); return nil }

// list calls each with what stands directly below dir; directories end in a slash.
func (t *s3Tree) list(ctx context.Context, dir string, each func(name string, size int64)) error {
	ctx, cancel := context.WithCancel(ctx) // ends the lister if we do not read to its end
	defer cancel()
	prefix := t.prefix
	if dir != "" {
		prefix += dir + "/"
	}
	for o := range t.client.ListObjects(ctx, t.bucket, minio.ListObjectsOptions{Prefix: prefix}) {
		if o.Err != nil {
			return s3Error(o.Err)
		}
		if name := strings.TrimPrefix(o.Key, prefix); name != "" {
			each(name, o.Size)
		}
	}
	return ctx.Err()
}

func (t *s3Tree) Dirs(ctx context.Context, dir string) (out []string, err error) {
	err = t.list(ctx, dir, func(name string, _ int64) {
		if d, ok := strings.CutSuffix(name, "/"); ok {
			out = append(out, d)
		}
	})
	return out, err
}

func (t *s3Tree) Files(ctx context.Context, dir string) (out []File, err error) {
	err = t.list(ctx, dir, func(name string, size int64) {
		if !strings.Contains(name, "/") {
			out = append(out, File{name, size})
		}
	})
	return out, err
}

func (t *s3Tree) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	// GetObject asks nothing before the first Read, which is too late to say that there is no such object.
	core := minio.Core{Client: t.client}
	body, _, _, err := core.GetObject(ctx, t.bucket, t.prefix+name, minio.GetObjectOptions{})
	if err != nil {
		return nil, s3Error(err)
	}
	return body, nil
}

func s3Error(err error) error {
	switch r := minio.ToErrorResponse(err); r.StatusCode {
	case http.StatusNotFound:
		return fault.New(fault.NotFound, "S3: %s", r.Code)
	case http.StatusForbidden, http.StatusUnauthorized:
		return fault.New(fault.Denied, "S3: %s: are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY right?", r.Code)
	}
	return fault.New(fault.Unavailable, "S3: %w", err)
}
