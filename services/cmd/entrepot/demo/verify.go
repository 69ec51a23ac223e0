package demo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/progress"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

// entry is what must be true of a file. Digests are hex and may be unknown, where an upstream's index has none.
type entry struct {
	SHA256, MD5 string
	Size        int64
}

// listing is files by path: `<subdir>/<file name>`.
type listing map[string]entry

// subdirs returns the listing's subdirs, and noarch, which every channel has.
func (l listing) subdirs() []string {
	set := map[string]bool{dist.Noarch: true}
	for path := range l {
		subdir, _, _ := strings.Cut(path, "/")
		set[subdir] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// of returns the part of the listing that lies in a subdir.
func (l listing) of(subdir string) listing {
	out := listing{}
	for path, e := range l {
		if strings.HasPrefix(path, subdir+"/") {
			out[path] = e
		}
	}
	return out
}

// findings is what did not hold. It is safe for concurrent use.
type findings struct {
	mu       sync.Mutex
	files    map[string]string // why, by path
	problems []string          // what is not about one file
}

// file notes what is wrong with a file; the first word on it stays.
func (f *findings) file(path, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.files == nil {
		f.files = map[string]string{}
	}
	if f.files[path] == "" {
		f.files[path] = fmt.Sprintf(format, args...)
	}
}

func (f *findings) problem(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.problems = append(f.problems, fmt.Sprintf(format, args...))
}

func (f *findings) held() bool      { return len(f.files) == 0 && len(f.problems) == 0 }
func (f *findings) paths() []string { return slices.Sorted(maps.Keys(f.files)) }

// verifier compares a channel, seen from outside, with what it must hold.
type verifier struct {
	c       *restclient.Client
	channel string
	settle  time.Duration
	// patience is how long the platform may leave a request without an answer.
	patience time.Duration
	found    *findings
	update   func(progress.State)
}

// parallel is how many files are downloaded at a time.
const parallel = 8

// verify checks that the channel lists exactly the wanted files but for the refused ones, which the platform itself has
// named, and that it serves each of them. A refused file is a finding, and it must not be served. It returns how many
// files were compared and their bytes; its error is what kept it from finding out.
func (v *verifier) verify(ctx context.Context, want listing, refused map[string]string) (files int, bytes int64, err error) {
	listed := maps.Clone(want)
	for path, why := range refused {
		v.found.file(path, "refused by the sync: %s", why)
		if _, ok := want[path]; !ok {
			v.found.problem("the sync of %s names %s, which the upstream does not list", v.channel, path)
		}
		delete(listed, path)
	}
	if err := v.listings(ctx, listed); err != nil {
		return 0, 0, err
	}
	if err := v.absent(ctx, refused); err != nil {
		return 0, 0, err
	}
	paths := slices.Sorted(maps.Keys(listed))
	state := progress.State{Total: int64(len(paths)), Message: "comparing"}
	for _, e := range listed {
		state.TotalBytes += e.Size
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, path := range paths {
		g.Go(func() error {
			n, err := v.compare(ctx, path, listed[path])
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			state.Done++
			state.Bytes += n
			v.update(state)
			return nil
		})
	}
	err = g.Wait()
	return len(paths), state.Bytes, err
}

// compare downloads a file and compares it. An answer that is an error is a finding; no answer at all is an error.
func (v *verifier) compare(ctx context.Context, path string, want entry) (int64, error) {
	var got *measure
	err := again(ctx, v.patience, func(bool) error {
		got = newMeasure()
		resp, err := v.c.Open(ctx, v.channel, path)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(got, resp.Body); err != nil {
			return fmt.Errorf("%w: %w", errBroken, err)
		}
		return nil
	})
	switch {
	case err == nil:
	case errors.Is(err, errBroken) && ctx.Err() == nil:
		v.found.file(path, "the download from %s broke off: %v", v.channel, err)
		return got.size, nil
	case unanswered(ctx, err):
		return 0, err
	default:
		v.found.file(path, "is not served by %s: %v", v.channel, err)
		return 0, nil
	}
	if why := got.differs(want); why != "" {
		v.found.file(path, "%s serves other bytes: %s", v.channel, why)
	}
	return got.size, nil
}

// absent checks that what was refused is not served either.
func (v *verifier) absent(ctx context.Context, refused map[string]string) error {
	for _, path := range slices.Sorted(maps.Keys(refused)) {
		err := again(ctx, v.patience, func(bool) error {
			resp, err := v.c.Open(ctx, v.channel, path)
			if err == nil {
				resp.Body.Close()
			}
			return err
		})
		switch {
		case err == nil:
			v.found.problem("%s serves %s, although the sync refused it", v.channel, path)
		case unanswered(ctx, err):
			return err
		case !fault.Is(err, fault.NotFound):
			v.found.problem("%s answers for %s, which was refused: %v", v.channel, path, err)
		}
	}
	return nil
}

// unanswered tells an error of the connection or of our own from an answer.
func unanswered(ctx context.Context, err error) bool {
	return ctx.Err() != nil || reasonOf(err) == restclient.Unreachable
}

func hexSHA(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
