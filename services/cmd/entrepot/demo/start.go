package demo

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/client"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/progress"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

// connect uses a platform that is up already. Others use it too, hence unique names.
func (s *scenario) connect() (err error) {
	if s.c, err = client.Connect("demo", s.server, s.getenv); err != nil {
		return err
	}
	me, err := s.c.Me(s.cmd.Context())
	if err != nil {
		return client.Explain(err, s.c)
	}
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	s.hosted += "-" + hex.EncodeToString(b[:])
	s.mirror += "-" + hex.EncodeToString(b[:])
	s.say("platform   %s, as %s", s.c.Server(), me.GetUser().GetUsername())
	return nil
}

// stopWithin bounds the orderly end.
const stopWithin = 30 * time.Second

// start starts the platform in this process. What it returns to be closed is valid also after an error.
func (s *scenario) start(ctx context.Context, cancel context.CancelCauseFunc, start StartFunc) (closers []func() error, err error) {
	dir, remove, err := s.makeDataDir()
	if err != nil {
		return nil, err
	}
	closers = append(closers, remove)
	if s.dataDir != "" {
		s.kept = dir
	}
	addr, busy := freeAddr(s.httpAddr)
	if busy {
		s.say("%s is taken; using another free port", s.httpAddr)
	}
	began := time.Now()
	p, err := start(ctx, StartOptions{DataDir: dir, HTTPAddr: addr, AllowLoopback: true, Quiet: true})
	if err != nil {
		return closers, fmt.Errorf("the platform did not start: %w", err)
	}
	closers = append(closers, func() error {
		ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer stop()
		return p.Stop(ctx)
	})
	watched := make(chan struct{})
	go func() {
		select {
		case err := <-p.Done:
			cancel(fmt.Errorf("the platform ended by itself: %w", errors.Join(err, errStopped)))
		case <-watched:
		}
	}()
	closers = append(closers, func() error { close(watched); return nil })
	if s.c, err = restclient.New(restclient.Config{Server: p.URL, Key: p.AdminKey, UserAgent: "entrepot/demo"}); err != nil {
		return closers, err
	}
	s.key = p.AdminKey
	if file := filepath.Join(dir, "admin-key"); exists(file) {
		s.key = "$(cat " + file + ")" // what is printed may end up in a log
	}
	where := "data in " + dir
	if s.dataDir == "" {
		where += ", deleted at the end"
	}
	s.say("platform   %s, up in %s, %s", s.c.Server(), progress.Duration(time.Since(began)), where)
	return closers, nil
}

var errStopped = errors.New("stopped")

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// serveUpstream generates an upstream, serves it, and spoils what shall be spoilt.
func (s *scenario) serveUpstream() (closer func() error, err error) {
	dir, err := os.MkdirTemp("", "entrepot-upstream-")
	if err != nil {
		return nil, err
	}
	closer = func() error { return os.RemoveAll(dir) }
	opts := sample.Options{Packages: s.packages}
	if s.server != "" {
		// A platform that others use may have seen the default bytes before, and what is stored is not downloaded again:
		// spoilt files would go unnoticed.
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		opts.Seed = binary.LittleEndian.Uint64(b[:])
	}
	began := time.Now()
	up, err := sample.Serve(dir, opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the upstream cannot be made: %w", err), closer())
	}
	closer = func() error { return errors.Join(up.Close(), os.RemoveAll(dir)) }
	s.upstream, s.upstreamURL = up, up.URL
	s.say("upstream   %s, %d packages (%s) generated in %s", up.URL, len(up.Channel.Files), progress.Bytes(up.Channel.Size()), progress.Duration(time.Since(began)))
	if s.corrupt > 0 {
		spoilt, err := up.Corrupt(s.corrupt)
		if err != nil {
			return nil, errors.Join(fault.Field("--corrupt", "%v", err), closer())
		}
		s.say("           %d of them were spoilt after they had been indexed", len(spoilt))
	}
	return closer, nil
}

// deleteChannels cleans up on a platform that is not ours, also when the demo was interrupted.
func (s *scenario) deleteChannels(ctx context.Context) error {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer stop()
	var errs []error
	for _, name := range []string{s.hosted, s.mirror} {
		err := s.again(ctx, func(bool) error { return s.c.DeleteChannel(ctx, name) })
		if err != nil && !fault.Is(err, fault.NotFound) {
			errs = append(errs, fmt.Errorf("delete channel %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
