package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

var (
	_ Store       = (*S3)(nil)
	_ Batcher     = (*S3)(nil)
	_ Presigner   = (*S3)(nil)
	_ TempCleaner = (*S3)(nil)
)

// S3Config says where the bucket is and how to sign. It prints and logs without its secrets.
type S3Config struct {
	// Endpoint is host or host:port, or a URL whose scheme then decides Insecure. Empty is Amazon's.
	Endpoint string
	Bucket   string
	// Prefix is put before every key, with a slash between.
	Prefix string
	// Region is needed where the service checks it; empty is asked for, or us-east-1.
	Region string
	// AccessKey and SecretKey; both empty means anonymous.
	AccessKey, SecretKey string
	// Insecure speaks plain HTTP. The payload is still covered: its digest is part of the signature, or a checksum travels with it.
	Insecure bool
	// PathStyle puts the bucket into the path, which servers without wildcard DNS need.
	PathStyle bool
	// CreateBucket makes the bucket if it is absent.
	CreateBucket bool
	// Transport replaces the HTTP transport, for tests that break networks and for private CAs. nil is the library's.
	Transport http.RoundTripper
	// Attempts is how often a request is tried when the service answers 5xx or not at all; 0 means 10.
	Attempts int
}

// String leaves the secrets out.
func (c S3Config) String() string {
	return fmt.Sprintf("s3 bucket %q prefix %q at %q", c.Bucket, c.Prefix, c.Endpoint)
}

// GoString is String: %#v must not print secrets either.
func (c S3Config) GoString() string { return c.String() }

// LogValue implements slog.LogValuer.
func (c S3Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// S3 is a Store in a bucket.
//
//	<prefix>/sha256/ab/<64 digits>   one blob
//	<prefix>/tmp/<random>            a large put under way
//
// Up to partSize a body is hashed in memory and sent in one PUT to its final key, on condition that the key is absent,
// with its digest as the signed payload hash: the service itself refuses what was damaged on the way. A larger one is
// a multipart upload to a temporary key, each part with a CRC-32C that the service checks, and copied inside the
// service when the digest is known and right. ETags are never taken for MD5s, since for multipart uploads they are not.
type S3 struct {
	core   *minio.Core
	bucket string
	prefix string // empty, or with a slash at its end
	parts  sync.Pool
	idle   func() // closes idle connections of the store's own transport
}

// OpenS3 connects and makes sure that the bucket is there.
func OpenS3(ctx context.Context, c S3Config) (*S3, error) {
	if c.Bucket == "" {
		return nil, fault.Field("bucket", "an S3 store needs a bucket")
	}
	host, insecure := c.Endpoint, c.Insecure
	if scheme, rest, ok := strings.Cut(host, "://"); ok {
		if scheme != "http" && scheme != "https" {
			return nil, fault.Field("endpoint", "the S3 endpoint is spoken to by http or https")
		}
		host, insecure = strings.TrimSuffix(rest, "/"), scheme == "http"
	}
	if host == "" {
		host = "s3.amazonaws.com"
	}
	transport, idle := c.Transport, func() {}
	if transport == nil {
		t, err := minio.DefaultTransport(!insecure)
		if err != nil {
			return nil, fault.New(fault.Internal, "open bucket %s: %w", c.Bucket, err)
		}
		t.MaxIdleConnsPerHost = 2 * batchPuts // or every other request of a commit dials anew
		transport, idle = t, t.CloseIdleConnections
	}
	o := &minio.Options{
		Creds:      credentials.NewStaticV4(c.AccessKey, c.SecretKey, ""),
		Secure:     !insecure,
		Transport:  transport,
		Region:     c.Region,
		MaxRetries: c.Attempts,
	}
	if c.PathStyle {
		o.BucketLookup = minio.BucketLookupPath
	}
	core, err := minio.NewCore(host, o)
	if err != nil {
		return nil, fault.Field("endpoint", "the S3 endpoint is not a host: %w", err)
	}
	s := &S3{core: core, bucket: c.Bucket, prefix: strings.Trim(c.Prefix, "/"), idle: idle}
	if s.prefix != "" {
		s.prefix += "/"
	}
	s.parts.New = func() any { b := make([]byte, partSize); return &b }
	switch ok, err := core.BucketExists(ctx, c.Bucket); {
	case err != nil:
		return nil, s3Error("open bucket "+c.Bucket, Digest{}, err)
	case !ok && !c.CreateBucket:
		return nil, fault.New(fault.NotFound, "there is no S3 bucket %q", c.Bucket)
	case !ok:
		err := core.MakeBucket(ctx, c.Bucket, minio.MakeBucketOptions{Region: c.Region})
		if code := minio.ToErrorResponse(err).Code; err != nil && code != "BucketAlreadyOwnedByYou" {
			return nil, s3Error("make bucket "+c.Bucket, Digest{}, err)
		}
	}
	return s, nil
}

func (s *S3) key(d Digest) string { return s.prefix + blobPath(d) }

// s3Error gives an answer of the service its kind. What the service refuses (credentials, a bucket that went away)
// is the operator's concern: to the caller the store is Unavailable.
func s3Error(action string, d Digest, err error) error {
	if err == nil {
		return nil
	}
	var f *fault.Error
	if errors.As(err, &f) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", action, err)
	}
	resp := minio.ToErrorResponse(err)
	if resp.Code == minio.NoSuchKey || resp.StatusCode == http.StatusNotFound && resp.Code != minio.NoSuchBucket && !d.IsZero() {
		return NotFound(d)
	}
	return fault.New(fault.Unavailable, "%s: %w", action, err).WithReason(ReasonIO)
}

// Open implements Store. Every range is a request of its own under ctx.
func (s *S3) Open(ctx context.Context, d Digest) (Blob, error) {
	st, err := s.Stat(ctx, d)
	if err != nil {
		return nil, err
	}
	return NewRanged(st.Size, st.ModTime, func(off, n int64) (io.ReadCloser, error) {
		var o minio.GetObjectOptions
		if err := o.SetRange(off, off+n-1); err != nil {
			return nil, fault.New(fault.Internal, "read blob %s: %w", d, err)
		}
		body, info, header, err := s.core.GetObject(ctx, s.bucket, s.key(d), o)
		if err != nil {
			return nil, s3Error("read blob "+d.String(), d, err)
		}
		// Anything but the very range would be bytes at the wrong offset.
		if want := fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, st.Size); header.Get("Content-Range") != want && (off != 0 || info.Size != n) {
			body.Close()
			return nil, fault.New(fault.Unavailable, "read blob %s: the service sent another range than %s", d, want).WithReason(ReasonIO)
		}
		return body, nil
	}), nil
}

// Stat implements Store.
func (s *S3) Stat(ctx context.Context, d Digest) (Stat, error) {
	info, err := s.core.StatObject(ctx, s.bucket, s.key(d), minio.StatObjectOptions{})
	if err != nil {
		return Stat{}, s3Error("stat blob "+d.String(), d, err)
	}
	return Stat{Digest: d, Size: info.Size, ModTime: info.LastModified}, nil
}

// Delete implements Store.
func (s *S3) Delete(ctx context.Context, d Digest) error {
	err := s3Error("delete blob "+d.String(), d, s.core.RemoveObject(ctx, s.bucket, s.key(d), minio.RemoveObjectOptions{}))
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// List implements Store; the keys' order is the digests'.
func (s *S3) List(ctx context.Context, after Digest, fn func(Stat) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o := minio.ListObjectsOptions{Prefix: s.prefix + "sha256/", Recursive: true}
	if !after.IsZero() {
		o.StartAfter = s.key(after)
	}
	for obj := range s.core.ListObjectsIter(ctx, s.bucket, o) {
		if obj.Err != nil {
			return s3Error("list blobs", Digest{}, obj.Err)
		}
		d, err := ParseDigest(obj.Key[strings.LastIndexByte(obj.Key, '/')+1:])
		if err != nil || obj.Key != s.key(d) {
			continue // not ours
		}
		if err := fn(Stat{Digest: d, Size: obj.Size, ModTime: obj.LastModified}); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// PresignGet implements Presigner. S3 takes a ttl from one second to seven days.
func (s *S3) PresignGet(ctx context.Context, d Digest, ttl time.Duration, h PresignHeaders) (*url.URL, error) {
	q := url.Values{}
	for name, v := range map[string]string{
		"response-content-type": h.ContentType, "response-content-disposition": h.ContentDisposition, "response-cache-control": h.CacheControl,
	} {
		if v != "" {
			q.Set(name, v)
		}
	}
	u, err := s.core.PresignedGetObject(ctx, s.bucket, s.key(d), ttl, q)
	if err != nil {
		return nil, s3Error("presign blob "+d.String(), d, err)
	}
	return u, nil
}

// CleanTemp implements TempCleaner: temporary objects, and multipart uploads that nobody completed.
func (s *S3) CleanTemp(ctx context.Context, olderThan time.Duration) (n int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := time.Now().Add(-olderThan) // against the service's clock; olderThan is hours
	for obj := range s.core.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + "tmp/", Recursive: true}) {
		if obj.Err != nil {
			return n, s3Error("clean temporary blobs", Digest{}, obj.Err)
		}
		if obj.LastModified.After(limit) {
			continue
		}
		if err := s.core.RemoveObject(ctx, s.bucket, obj.Key, minio.RemoveObjectOptions{}); err != nil {
			return n, s3Error("clean temporary blobs", Digest{}, err)
		}
		n++
	}
	uploads, err := s.abandoned(ctx, limit)
	if err != nil {
		return n, err
	}
	for _, up := range uploads {
		err := s.core.AbortMultipartUpload(ctx, s.bucket, up.Key, up.UploadID)
		if code := minio.ToErrorResponse(err).Code; err != nil && code != minio.NoSuchUpload {
			return n, s3Error("clean temporary blobs", Digest{}, err)
		}
		n++
	}
	return n, nil
}

// abandoned lists multipart uploads begun before the limit.
func (s *S3) abandoned(ctx context.Context, limit time.Time) ([]minio.ObjectMultipartInfo, error) {
	var found []minio.ObjectMultipartInfo
	var key, id string
	for {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		page, err := s.core.ListMultipartUploads(ctx, s.bucket, s.prefix+"tmp/", key, id, "", 1000)
		if err != nil {
			return nil, s3Error("list abandoned uploads", Digest{}, err)
		}
		for _, up := range page.Uploads {
			if strings.HasPrefix(up.Key, s.prefix+"tmp/") && up.Initiated.Before(limit) {
				found = append(found, up)
			}
		}
		if !page.IsTruncated {
			return found, nil
		}
		key, id = page.NextKeyMarker, page.NextUploadIDMarker
	}
}
