package blob

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Reasons of this package's faults.
const (
	ReasonNotFound = "BLOB_NOT_FOUND"
	ReasonMismatch = "BLOB_MISMATCH"
	ReasonTooLarge = "BLOB_TOO_LARGE"
	// ReasonFull comes with kind Unavailable: no space, no inodes, or the disk quota is used up.
	ReasonFull = "BLOB_STORE_FULL"
	// ReasonIO comes with kind Unavailable: the disk or the S3 service failed, and nothing was stored.
	ReasonIO = "BLOB_STORE_IO"
	// ReasonCorrupt comes with kind Internal: the store's own bytes do not have their digest.
	ReasonCorrupt = "BLOB_CORRUPT"
)

// MismatchError says that the bytes are not those that the caller expected. It is a fault of kind Invalid.
type MismatchError struct {
	Field     string // "sha256", "md5" or "size"
	Want, Got string // a size is decimal; Got is ">n" if reading stopped there
}

// Error names the field and both values.
func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s mismatch: want %s, got %s", e.Field, e.Want, e.Got)
}

// Unwrap gives the error its kind.
func (e *MismatchError) Unwrap() error {
	f := fault.Field(e.Field, "%s", e.Error())
	return f.WithReason(ReasonMismatch)
}

// NotFound returns the error of a blob that is not there. Stores outside this package use it, too.
func NotFound(d Digest) error {
	return fault.New(fault.NotFound, "blob %s is not stored", d).WithReason(ReasonNotFound)
}

// tooLarge returns the error of a put over its MaxSize.
func tooLarge(limit int64) error {
	return fault.New(fault.Invalid, "more than the allowed %d bytes", limit).WithReason(ReasonTooLarge)
}

// diskError gives an error of the file system its kind. A full disk and a broken one are both the store's failure,
// not the caller's: Unavailable, with reasons that tell them apart.
func diskError(action string, err error) error {
	if err == nil {
		return nil
	}
	var f *fault.Error
	if errors.As(err, &f) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", action, err)
	}
	reason := ReasonIO
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		reason = ReasonFull
	}
	var pe *fs.PathError // its path is the operator's business, not the caller's
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fault.New(fault.Unavailable, "%s: %w", action, err).WithReason(reason)
}
