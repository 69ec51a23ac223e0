package blob_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func newBucket() string { return "b" + strings.ToLower(rand.Text()) }

func openS3(t testing.TB, c blob.S3Config) *blob.S3 {
	t.Helper()
	s, err := blob.OpenS3(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// faulty breaks requests on their way, with reproducible dice.
type faulty struct {
	next *http.Transport
	mu   sync.Mutex
	dice *mathrand.Rand
	// hit decides what happens to a request: "" nothing, "503" refused before, "lost" done but the answer lost,
	// "cut" the answer's body cut in the middle, "flip" one bit of the request's body changed.
	hit func(r *http.Request, dice *mathrand.Rand) string
}

func (f *faulty) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	what := f.hit(r, f.dice)
	f.mu.Unlock()
	switch what {
	case "503":
		if r.Body != nil {
			r.Body.Close()
		}
		return &http.Response{
			StatusCode: 503, Status: "503 Slow Down", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
			Body: io.NopCloser(strings.NewReader("<Error><Code>SlowDown</Code></Error>")), Request: r,
		}, nil
	case "flip":
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		body[len(body)/2] ^= 1
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	resp, err := f.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	switch what {
	case "lost":
		_, _ = io.Copy(io.Discard, resp.Body) // the service did it
		resp.Body.Close()
		return nil, errors.New("connection reset by peer")
	case "cut":
		resp.Body = &cutBody{resp.Body, io.LimitReader(resp.Body, resp.ContentLength/2)}
	}
	return resp, nil
}

type cutBody struct {
	io.Closer
	r io.Reader
}

func (b *cutBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func openFaulty(t *testing.T, c blob.S3Config, hit func(*http.Request, *mathrand.Rand) string) *blob.S3 {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	c.Bucket = newBucket()
	openS3(t, c) // make the bucket undisturbed
	c.Transport = &faulty{next: transport, dice: mathrand.New(mathrand.NewPCG(1, 2)), hit: hit}
	return openS3(t, c)
}

func putAndReadBack(t *testing.T, s blob.Store, seed byte, size int) {
	t.Helper()
	data := blobtest.Bytes(seed, size)
	info, err := s.Put(t.Context(), bytes.NewReader(data), blob.PutOptions{})
	if err != nil {
		t.Fatalf("Put %d bytes: %v", size, err)
	}
	b, err := s.Open(t.Context(), info.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d of %d bytes, %v", len(got), size, err)
	}
}

func TestS3Faults(t *testing.T) {
	server := blobtest.StartS3(t)
	t.Run("a third of the requests fail, and every put is right", func(t *testing.T) {
		s := openFaulty(t, server, func(r *http.Request, dice *mathrand.Rand) string {
			switch n := dice.IntN(100); {
			case n < 20:
				return "503"
			case n < 30:
				return "lost"
			case n < 60 && r.Method == http.MethodGet && r.Header.Get("Range") != "":
				return "cut"
			}
			return ""
		})
		for i, size := range []int{0, 10, 100_000, 9 << 20, 17 << 20} {
			putAndReadBack(t, s, byte(i), size)
		}
		n := 0
		if err := s.List(t.Context(), blob.Digest{}, func(blob.Stat) error { n++; return nil }); n != 5 || err != nil {
			t.Errorf("%d blobs are listed, %v, want 5", n, err)
		}
	})
	t.Run("the answer to the first write is lost", func(t *testing.T) {
		for _, size := range []int{10, 9 << 20} {
			lost := map[string]bool{}
			s := openFaulty(t, server, func(r *http.Request, _ *mathrand.Rand) string {
				if r.Method == http.MethodGet || r.Method == http.MethodHead || lost[r.Method+r.URL.String()] {
					return ""
				}
				lost[r.Method+r.URL.String()] = true
				return "lost"
			})
			putAndReadBack(t, s, 1, size)
		}
	})
	t.Run("bytes damaged on the way are refused by the service", func(t *testing.T) {
		for _, size := range []int{1000, 9 << 20} {
			s := openFaulty(t, server, func(r *http.Request, _ *mathrand.Rand) string {
				if r.Method == http.MethodPut && r.ContentLength > 0 {
					return "flip"
				}
				return ""
			})
			if _, err := s.Put(t.Context(), bytes.NewReader(blobtest.Bytes(2, size)), blob.PutOptions{}); !fault.Is(err, fault.Unavailable) {
				t.Errorf("%d bytes: error %v, want Unavailable", size, err)
			}
			if err := s.List(t.Context(), blob.Digest{}, func(st blob.Stat) error { return fmt.Errorf("%s is listed", st.Digest) }); err != nil {
				t.Error(err)
			}
			blobtest.NoLeftovers(t, s)
		}
	})
	t.Run("a service that stays away is unavailable", func(t *testing.T) {
		c := server
		c.Attempts = 2
		away := false
		s := openFaulty(t, c, func(*http.Request, *mathrand.Rand) string {
			if away {
				return "503"
			}
			return ""
		})
		away = true
		_, errPut := s.Put(t.Context(), strings.NewReader("x"), blob.PutOptions{})
		_, errOpen := s.Open(t.Context(), blob.Sum([]byte("x")))
		for _, err := range []error{errPut, errOpen, s.Delete(t.Context(), blob.Sum(nil)), s.List(t.Context(), blob.Digest{}, nil)} {
			if !fault.Is(err, fault.Unavailable) {
				t.Errorf("error %v, want Unavailable", err)
			}
		}
	})
	t.Run("the janitor clears what crashes left", func(t *testing.T) {
		c := server
		c.Bucket = newBucket()
		s := openS3(t, c)
		transport := &http.Transport{}
		t.Cleanup(transport.CloseIdleConnections)
		core, err := minio.NewCore(c.Endpoint, &minio.Options{Creds: credentials.NewStaticV4(c.AccessKey, c.SecretKey, ""), Region: c.Region, Transport: transport})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := core.NewMultipartUpload(t.Context(), c.Bucket, "test/tmp/abandoned", minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := core.PutObject(t.Context(), c.Bucket, "test/tmp/left", strings.NewReader("x"), 1, "", "", minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
		if n, err := s.CleanTemp(t.Context(), time.Hour); n != 0 || err != nil {
			t.Errorf("CleanTemp took %d young ones, %v", n, err)
		}
		if n, err := s.CleanTemp(t.Context(), -time.Hour); n != 2 || err != nil {
			t.Errorf("CleanTemp = %d, %v, want 2", n, err)
		}
		blobtest.NoLeftovers(t, s)
	})
	t.Run("wrong credentials and absent buckets are errors without secrets", func(t *testing.T) {
		c := server
		c.Bucket, c.CreateBucket, c.Attempts = newBucket(), false, 1
		if _, err := blob.OpenS3(t.Context(), c); !fault.Is(err, fault.NotFound) {
			t.Errorf("absent bucket: %v", err)
		}
		c.SecretKey = "canary-secret"
		_, err := blob.OpenS3(t.Context(), c)
		if !fault.Is(err, fault.Unavailable) || strings.Contains(fmt.Sprintf("%v %+v %#v %v", err, c, c, &c), "canary") {
			t.Errorf("wrong secret: %v", err)
		}
	})
	t.Run("opened by URL", func(t *testing.T) {
		u := fmt.Sprintf("s3://%s:%s@%s/a/b?endpoint=%s&region=us-east-1&insecure=1&path_style=1&create=1", server.AccessKey, server.SecretKey, newBucket(), server.Endpoint)
		s, err := blob.Open(t.Context(), u, blob.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		putAndReadBack(t, s, 3, 100)
	})
}

func TestOpenByURL(t *testing.T) {
	dir := t.TempDir()
	for _, good := range []string{dir + "/plain", "file://" + dir + "/plain", "file://localhost" + dir + "/plain"} {
		s, err := blob.Open(t.Context(), good, blob.OpenOptions{})
		if err != nil {
			t.Errorf("%s: %v", good, err)
			continue
		}
		if _, ok := s.(*blob.Dir); !ok {
			t.Errorf("%s is a %T", good, s)
		}
		s.Close()
	}
	for _, bad := range []string{
		"", "ftp://canary@host/x", "file://otherhost/x", "file:///x?canary=1", "s3://", "s3://key:canary@bucket/%zz", "s3://key:canary@bucket?surprise=1",
		"s3://key:canary@bucket?insecure=maybe", "s3://key:canary@bucket?endpoint=ftp://host", "s3://key:canary@bucket?a;b",
	} {
		s, err := blob.Open(context.Background(), bad, blob.OpenOptions{})
		if !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: %v, error %v", bad, s, err)
		}
	}
}
