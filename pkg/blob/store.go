package blob

import (
	"context"
	"crypto/md5"
	"io"
	"net/url"
	"time"
)

// MD5 is the MD5 of a blob's bytes. Package indexes of several formats still list it; nothing here relies on it.
type MD5 [md5.Size]byte

// Info says what a put stored.
type Info struct {
	Digest Digest
	// MD5 is computed only when PutOptions asked for it or expected one; a second hash costs a third of the throughput.
	MD5 MD5
	// Size is in bytes.
	Size int64
	// Created is false if the blob was there already. It is for accounting: two puts of equal bytes at the
	// same moment may both see true. Tell it only to who may read the blob.
	Created bool
}

// Stat describes a stored blob.
type Stat struct {
	Digest  Digest
	Size    int64     // in bytes
	ModTime time.Time // when it was stored, roughly: stores differ in resolution
}

// PutOptions says what to compute, what to expect and how much to take. The zero value takes anything.
type PutOptions struct {
	// MD5 asks for Info.MD5.
	MD5 bool
	// Expect, ExpectMD5 and ExpectSize, where not nil, must hold, or the put fails with a *MismatchError and stores nothing.
	Expect     *Digest
	ExpectMD5  *MD5
	ExpectSize *int64
	// MaxSize bounds the bytes taken; 0 means no bound. The put fails as soon as it is exceeded, with a fault of
	// kind Invalid and reason ReasonTooLarge.
	MaxSize int64
	// Replace writes the bytes even if the blob seems to be there. Scrubbing uses it to heal a blob whose bytes rotted.
	Replace bool
}

// Store keeps blobs. All methods may be called at once from many goroutines. A blob that is not there is a
// fault of kind NotFound with reason ReasonNotFound; a store that cannot work now is Unavailable.
type Store interface {
	// Put stores what r yields, under its digest, and returns when it is durable. An error of r (or the end
	// of ctx) stores nothing. Putting bytes that are there already is cheap and succeeds.
	Put(ctx context.Context, r io.Reader, o PutOptions) (Info, error)
	// Open returns the blob for reading. ctx bounds the reads, too, where they go over a network. The bytes are not
	// hashed again: readers that cannot live with bit rot use NewVerifier.
	Open(ctx context.Context, d Digest) (Blob, error)
	// Stat describes the blob without reading it.
	Stat(ctx context.Context, d Digest) (Stat, error)
	// Delete removes the blob. Whoever has it open may read on or see an error. Deleting what is not there is no error.
	Delete(ctx context.Context, d Digest) error
	// List calls fn for every blob whose digest sorts after the given one (the zero Digest: from the start), in
	// ascending order, until fn returns an error, which List returns. Blobs that come or go meanwhile may or may
	// not be listed; all others are, once.
	List(ctx context.Context, after Digest, fn func(Stat) error) error
}

// Blob is an open blob. Reads and seeks are for one goroutine at a time; ReadAt is for any number. A blob of a
// directory is an *os.File underneath (as syscall.Conn), so that net/http can use sendfile.
type Blob interface {
	io.ReadSeekCloser
	io.ReaderAt
	Size() int64
	ModTime() time.Time
}

// Batcher is a store that can make many blobs durable at once.
type Batcher interface {
	NewBatch() (Batch, error)
}

// Batch collects blobs that become visible and durable together, for importers of many small files. Up to a few
// hundred blobs a batch is sensible. A Batch may be used from several goroutines.
type Batch interface {
	// Put takes a blob into the batch. Its checks are those of Store.Put, and a failed Put harms no other. Info.Created
	// is false as well if the batch holds the blob already.
	Put(ctx context.Context, r io.Reader, o PutOptions) (Info, error)
	// Commit makes the blobs durable, then visible. After an error the blobs of the batch must be put again: some may be
	// there, and none is to be trusted. The batch is empty and can be used again after Commit, whatever its result.
	Commit(ctx context.Context) error
	// Abort drops what was not committed and ends the batch. It may be called after Commit and twice, so that it can be deferred.
	Abort()
}

// Presigner is a store that can hand out URLs which give one blob away for a while.
type Presigner interface {
	PresignGet(ctx context.Context, d Digest, ttl time.Duration, h PresignHeaders) (*url.URL, error)
}

// PresignHeaders are the response headers that a presigned URL makes the other server send; empty ones are left to it.
type PresignHeaders struct {
	ContentType        string
	ContentDisposition string
	CacheControl       string
}

// TempCleaner is a store whose interrupted puts can leave temporary data behind.
type TempCleaner interface {
	// CleanTemp removes temporary data not written to for longer than olderThan and says how many items there were.
	// A put that is still running loses its data if it stalls longer than that, and then fails: be generous (hours).
	CleanTemp(ctx context.Context, olderThan time.Duration) (int, error)
}

// As finds the first store in a chain of decorators that has the ability T: blob.As[blob.Batcher](store). A
// decorator gives access to what it wraps by a method Unwrap() Store.
func As[T any](s Store) (T, bool) {
	for s != nil {
		if t, ok := s.(T); ok {
			return t, true
		}
		u, ok := s.(interface{ Unwrap() Store })
		if !ok {
			break
		}
		s = u.Unwrap()
	}
	var zero T
	return zero, false
}
