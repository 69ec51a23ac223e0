package blob

import (
	"context"
	"errors"
	"io/fs"
)

// Quarantiner is a store that can take damaged bytes out of service without destroying them.
type Quarantiner interface {
	// Quarantine moves the blob's bytes to where no Open, Stat or List finds them. What is not there is no error.
	Quarantine(ctx context.Context, d Digest) error
}

var _ Quarantiner = (*Dir)(nil)

// Quarantine takes a blob whose bytes rotted out of service: from now on it is NotFound, and a Put of the right bytes
// brings it back. Stores that are no Quarantiner delete it.
func Quarantine(ctx context.Context, s Store, d Digest) error {
	if q, ok := As[Quarantiner](s); ok {
		return q.Quarantine(ctx, d)
	}
	return s.Delete(ctx, d)
}

// Quarantine implements Quarantiner: the file moves to quarantine/<digest>, where an operator may look at it and delete
// it. A later one of the same blob takes its place.
func (d *Dir) Quarantine(ctx context.Context, dg Digest) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := d.root.Mkdir("quarantine", 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return diskError("quarantine blob "+dg.String(), err)
	}
	if err := d.root.Rename(blobPath(dg), "quarantine/"+dg.String()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError("quarantine blob "+dg.String(), err)
	}
	if !d.durable {
		return nil
	}
	// The rotten name must not come back with a power cut.
	return diskError("quarantine blob "+dg.String(), d.syncDir(fanPath(dg)))
}
