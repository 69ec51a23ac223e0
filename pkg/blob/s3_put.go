package blob

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const (
	// partSize is both the largest body sent in one PUT and the size of a part of larger ones. With the 10,000 parts that
	// S3 allows, a body of unknown size can have 80 GiB.
	partSize = 8 << 20
	maxParts = 10_000
	// partsInFlight bounds the memory of one upload to (partsInFlight+1) × partSize.
	partsInFlight = 3
	// copyLimit is where S3's CopyObject ends and copying by parts begins.
	copyLimit = 5 << 30
	// partGrace is how long parts on their way may take after their upload has failed.
	partGrace = 5 * time.Second
	// cleanupTimeout bounds the tidying after a put that failed or whose caller left.
	cleanupTimeout = 30 * time.Second
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Put implements Store.
func (s *S3) Put(ctx context.Context, r io.Reader, o PutOptions) (Info, error) {
	buf := s.parts.Get().(*[]byte)
	defer s.parts.Put(buf)
	in := NewIntake(o)
	defer in.Release()
	n, err := in.Read(ctx, r, *buf)
	switch {
	case err == io.EOF:
		info, err := in.Finish()
		if err != nil {
			return Info{}, err
		}
		return s.putSmall(ctx, info, (*buf)[:n], o.Replace)
	case err != nil:
		return Info{}, err
	}
	if o.Expect != nil && !o.Replace {
		if st, err := s.Stat(ctx, *o.Expect); err == nil {
			return s.swallow(ctx, in, r, *buf, st)
		}
	}
	tmp, info, err := s.upload(ctx, in, r, buf)
	if err != nil {
		return Info{}, err
	}
	defer s.removeTemp(ctx, tmp)
	info.Created, err = s.promote(ctx, tmp, info, o.Replace)
	return info, err
}

// swallow reads a large body that claims to be a blob which is there already: hashed to the end, but not sent.
func (s *S3) swallow(ctx context.Context, in *Intake, r io.Reader, buf []byte, st Stat) (Info, error) {
	for {
		if _, err := in.Read(ctx, r, buf); err == io.EOF {
			break
		} else if err != nil {
			return Info{}, err
		}
	}
	info, err := in.Finish()
	if err == nil && info.Size != st.Size {
		err = fault.New(fault.Unavailable, "the stored blob %s is damaged: put it again with Replace", info.Digest).WithReason(ReasonCorrupt)
	}
	return info, err
}

// putSmall sends the bytes to their final key unless it is taken.
func (s *S3) putSmall(ctx context.Context, info Info, data []byte, replace bool) (Info, error) {
	action := "put blob " + info.Digest.String()
	var o minio.PutObjectOptions
	o.ContentType = "application/octet-stream"
	o.DisableContentSha256 = true // not the chunked signature: the digest below signs the payload
	if !replace {
		o.SetMatchETagExcept("*")
	}
	send := func() error {
		_, err := s.core.PutObject(ctx, s.bucket, s.key(info.Digest), bytes.NewReader(data), info.Size, "", info.Digest.String(), o)
		return err
	}
	err := send()
	if resp := minio.ToErrorResponse(err); err != nil && !replace {
		switch {
		case resp.StatusCode == http.StatusPreconditionFailed, resp.StatusCode == http.StatusConflict:
			// Taken, or being taken by another put at this moment (409). A key of another size was damaged by other hands.
			st, serr := s.Stat(ctx, info.Digest)
			if serr == nil && st.Size == info.Size {
				return info, nil
			}
			if serr != nil && !fault.Is(serr, fault.NotFound) {
				return Info{}, serr
			}
			o = minio.PutObjectOptions{ContentType: o.ContentType, DisableContentSha256: true}
			err = send()
		case resp.StatusCode == http.StatusNotImplemented:
			// A service without conditional writes: the same bytes go to the same key, so writing twice is harmless.
			if st, serr := s.Stat(ctx, info.Digest); serr == nil && st.Size == info.Size {
				return info, nil
			}
			o = minio.PutObjectOptions{ContentType: o.ContentType, DisableContentSha256: true}
			err = send()
		}
	}
	if err != nil {
		return Info{}, s3Error(action, Digest{}, err)
	}
	info.Created = true
	return info, nil
}

// upload streams a large body, whose first part is already in buf, to a temporary key, and returns it complete and verified.
// On error nothing is left.
func (s *S3) upload(ctx context.Context, in *Intake, r io.Reader, first *[]byte) (_ string, info Info, err error) {
	tmp := s.prefix + "tmp/" + rand.Text()
	// minio-go takes the checksum algorithm of a multipart upload from the user metadata.
	id, err := s.core.NewMultipartUpload(ctx, s.bucket, tmp, minio.PutObjectOptions{
		ContentType: "application/octet-stream", UserMetadata: map[string]string{"X-Amz-Checksum-Algorithm": "CRC32C"},
	})
	if err != nil {
		return "", Info{}, s3Error("put blob", Digest{}, err)
	}
	defer func() {
		if err != nil {
			s.abort(ctx, tmp, id)
		}
	}()
	parts, err := s.sendParts(ctx, tmp, id, in, r, first)
	if err != nil {
		return "", Info{}, err
	}
	if info, err = in.Finish(); err != nil {
		return "", Info{}, err
	}
	_, cerr := s.core.CompleteMultipartUpload(ctx, s.bucket, tmp, id, parts, minio.PutObjectOptions{})
	// A lost answer makes the library complete twice, and the second time there is no such upload. The object tells.
	st, err := s.core.StatObject(ctx, s.bucket, tmp, minio.StatObjectOptions{})
	if err == nil && st.Size != info.Size {
		err = fault.New(fault.Unavailable, "put blob %s: %d bytes were sent and %d stored", info.Digest, info.Size, st.Size).WithReason(ReasonIO)
		s.removeTemp(ctx, tmp)
	}
	if err != nil {
		return "", Info{}, s3Error("put blob", Digest{}, errors.Join(cerr, err))
	}
	return tmp, info, nil
}

// sendParts reads and sends, partsInFlight at a time.
func (s *S3) sendParts(ctx context.Context, tmp, id string, in *Intake, r io.Reader, first *[]byte) ([]minio.CompletePart, error) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(partsInFlight)
	// A part that is cut off may still be arriving when the upload is aborted, and bring it back. So parts on their way
	// get a moment to arrive when the caller leaves.
	pctx, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(gctx, func() { time.AfterFunc(partGrace, cut) })()
	var parts []*minio.CompletePart
	send := func(data []byte, release func()) {
		part := &minio.CompletePart{PartNumber: len(parts) + 1}
		parts = append(parts, part)
		g.Go(func() error {
			defer release()
			sum := base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.Checksum(data, castagnoli)))
			sent, err := s.core.PutObjectPart(pctx, s.bucket, tmp, id, part.PartNumber, bytes.NewReader(data), int64(len(data)),
				minio.PutObjectPartOptions{DisableContentSha256: true, CustomHeader: http.Header{"X-Amz-Checksum-Crc32c": {sum}}})
			part.ETag, part.ChecksumCRC32C = sent.ETag, sum
			return s3Error("put blob", Digest{}, err)
		})
	}
	send(*first, func() {})
	var err error
	for done := false; !done && err == nil && gctx.Err() == nil; {
		buf := s.parts.Get().(*[]byte)
		var n int
		n, err = in.Read(gctx, r, *buf)
		if done = err == io.EOF; done {
			err = nil
		}
		if err == nil && len(parts) == maxParts && n > 0 {
			err = tooLarge(maxParts * partSize)
		}
		if err != nil || n == 0 {
			s.parts.Put(buf)
			continue
		}
		send((*buf)[:n], func() { s.parts.Put(buf) })
	}
	if gerr := g.Wait(); gerr != nil {
		return nil, gerr // the reason why gctx, and with it reading, ended
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	list := make([]minio.CompletePart, len(parts))
	for i, p := range parts {
		list[i] = *p
	}
	return list, nil
}

// promote copies a temporary object to its final key inside the service, and looks whether it arrived.
func (s *S3) promote(ctx context.Context, tmp string, info Info, replace bool) (created bool, err error) {
	action := "put blob " + info.Digest.String()
	if !replace {
		st, err := s.Stat(ctx, info.Digest)
		if err == nil && st.Size == info.Size {
			return false, nil
		}
		if err != nil && !fault.Is(err, fault.NotFound) {
			return false, err
		}
	}
	dst := minio.CopyDestOptions{Bucket: s.bucket, Object: s.key(info.Digest)}
	src := minio.CopySrcOptions{Bucket: s.bucket, Object: tmp}
	if info.Size <= copyLimit {
		_, err = s.core.Client.CopyObject(ctx, dst, src)
	} else {
		_, err = s.core.ComposeObject(ctx, dst, src)
	}
	if err != nil {
		return false, s3Error(action, Digest{}, err)
	}
	st, err := s.Stat(ctx, info.Digest)
	if err == nil && st.Size != info.Size {
		err = fault.New(fault.Unavailable, "%s: the copy has %d bytes instead of %d", action, st.Size, info.Size).WithReason(ReasonIO)
	}
	return err == nil, err
}

// abort ends a multipart upload. A part whose request was cancelled may still be arriving at the service, which then keeps
// (or brings back) the upload; S3's manual says to abort until no part is left.
func (s *S3) abort(ctx context.Context, tmp, id string) {
	ctx, cancel := cleanupContext(ctx)
	defer cancel()
	for wait := 20 * time.Millisecond; wait < 2*time.Second; wait *= 2 {
		err := s.core.AbortMultipartUpload(ctx, s.bucket, tmp, id)
		if err == nil {
			_, err = s.core.ListObjectParts(ctx, s.bucket, tmp, id, 0, 1)
		}
		if err != nil && minio.ToErrorResponse(err).Code == minio.NoSuchUpload {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
	// What stays is the janitor's.
}

func (s *S3) removeTemp(ctx context.Context, tmp string) {
	ctx, cancel := cleanupContext(ctx)
	defer cancel()
	_ = s.core.RemoveObject(ctx, s.bucket, tmp, minio.RemoveObjectOptions{}) // what stays is the janitor's
}

// cleanupContext outlives the request whose leftovers it clears.
func cleanupContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
}

// stash puts a small verified body under a temporary key.
func (s *S3) stash(ctx context.Context, info Info, data []byte) (string, error) {
	tmp := s.prefix + "tmp/" + rand.Text()
	_, err := s.core.PutObject(ctx, s.bucket, tmp, bytes.NewReader(data), info.Size, "", info.Digest.String(),
		minio.PutObjectOptions{ContentType: "application/octet-stream", DisableContentSha256: true})
	return tmp, s3Error("put blob", Digest{}, err)
}
