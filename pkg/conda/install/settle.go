package install

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Settle brings a prefix into order as Recover does, and returns what is installed in it as of that moment: it reads the
// records before it gives the lock back. Who decides by them what is to be installed hands them on to Install as
// Options.From, since another process may change the prefix meanwhile.
func Settle(ctx context.Context, prefix string, warn func(Warning)) ([]*Record, Recovery, error) {
	abs, err := filepath.Abs(prefix)
	if err != nil {
		return nil, "", err
	}
	none := []*Record{}
	if _, err := os.Lstat(filepath.Join(abs, metaDir)); errors.Is(err, fs.ErrNotExist) {
		return none, NothingToRecover, nil
	}
	t, err := open(ctx, abs, &Options{Warn: warn})
	if err != nil {
		return nil, "", err
	}
	defer t.close()
	how, err := t.recover()
	if err != nil {
		return nil, "", err
	}
	records, err := Read(abs)
	return append(none, records...), how, err
}

// ChangedError says that a prefix is no longer what Options.From says: another process changed it after it was read.
// What was wanted was decided by what is no longer there, and has to be decided again.
type ChangedError struct{ Prefix string }

// Error implements error.
func (e *ChangedError) Error() string {
	return e.Prefix + " was changed by another process after it had been read"
}

// unchanged compares what is installed with what the caller knows.
func (o *Options) unchanged(prefix string, have []*Record) error {
	if o.From != nil && !slices.EqualFunc(o.From, have, sameRecord) {
		return &ChangedError{prefix}
	}
	return nil
}

// sameRecord compares what a decision may depend on.
func sameRecord(a, b *Record) bool {
	return a.MetaName() == b.MetaName() && strings.EqualFold(a.SHA256, b.SHA256) && strings.EqualFold(a.MD5, b.MD5) &&
		a.URL == b.URL && a.Channel == b.Channel && slices.Equal(a.RequestedSpecs, b.RequestedSpecs)
}
