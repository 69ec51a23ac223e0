// Package demo is the whole platform showing what it is for, and checking that it does it.
//
// The scenario (scenario.go) is this. A generated upstream is served on a loopback port. A hosted channel gets some of
// its packages by upload, a mirror channel gets all of them by a sync. Then every file that the generator wrote is
// downloaded through the edge and compared with what was written, and every listing that the platform has (repodata.json,
// repodata.json.zst, the shards, the REST list) must name exactly these files with these digests, and no other
// (verify.go).
//
// With --corrupt some upstream files are spoilt after they were indexed. A right platform does not hand these on, and
// hands on all others. The demo does not use its knowledge of which ones they are: it names what it finds missing or
// wrong, one path a line on standard output, where nothing else is ever written.
//
// Exit codes: 0 all held, 1 something did not, 2 it could not start.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// StartOptions say how to start the platform for a demo.
type StartOptions struct {
	// DataDir is an empty directory for all that the platform keeps.
	DataDir string
	// HTTPAddr is where the edge shall listen; port 0 means any free one.
	HTTPAddr string
	// AllowLoopback lets syncs reach upstreams on this machine, which the egress policy refuses otherwise.
	AllowLoopback bool
	// Quiet keeps the log to warnings and errors.
	Quiet bool
}

// Platform is a running platform.
type Platform struct {
	// URL of the edge.
	URL string
	// AdminKey is an API key that may do everything.
	AdminKey string
	// Stop ends it in good order. It may be called after Done.
	Stop func(context.Context) error
	// Done yields once, when the platform has ended by itself.
	Done <-chan error
}

// StartFunc starts the platform and returns when it is ready.
type StartFunc func(ctx context.Context, opts StartOptions) (*Platform, error)

// options are the command's flags, and what tests change.
type options struct {
	exit     bool
	corrupt  int
	server   string
	dataDir  string
	upstream string

	getenv func(string) string
	// settle is how long index files may lag behind the revision that they show.
	settle time.Duration
	// packages is how many the generator makes; 0 means its default.
	packages int
	// httpAddr is where the edge listens if that port is free.
	httpAddr string
}

// exitError carries an exit code; without a cause everything has been said.
type exitError struct {
	code  int
	cause error
}

func (e *exitError) Error() string {
	if e.cause == nil {
		return ""
	}
	return e.cause.Error()
}
func (e *exitError) Unwrap() error { return e.cause }
func (e *exitError) ExitCode() int { return e.code }

const (
	exitDiffers     = 1
	exitNotStarted  = 2
	exitInterrupted = 130
)

// notStarted marks why the demo could not begin.
func notStarted(err error) error { return &exitError{exitNotStarted, err} }

// Command returns the command; start starts the platform for it.
func Command(start StartFunc) *cobra.Command {
	return command(start, options{getenv: os.Getenv, settle: 2 * time.Minute, httpAddr: "127.0.0.1:8000"})
}

func command(start StartFunc, o options) *cobra.Command {
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run the platform with a generated upstream, mirror it, and check every byte",
		Long: `Starts the whole platform in an empty data directory, serves a generated conda channel of about 60 packages on a loopback
port, uploads some of them into a hosted channel, mirrors all of them, downloads every file through the edge, compares it
with what was generated, and checks that nothing else is listed. Then it stays up for you to try things, until Ctrl-C.

With --server the same happens on a platform that is already up (the key comes from ENTREPOT_API_KEY or the login); its
channels get unique names and are deleted at the end.

Standard output gets the path of each file that did not hold, one a line, and nothing else.

Exit codes: 0 everything held, 1 something did not, 2 could not start`,
		Example: "  entrepot demo\n  entrepot demo --exit --corrupt 3\n  entrepot demo --exit --server https://packages.example.org --upstream https://conda.example.org/small",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fault.New(fault.Invalid, "demo takes no arguments, but got %q", args[0])
			}
			return nil
		},
		SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return notStarted(err)
			}
			return run(cmd, start, o)
		},
	}
	f := c.Flags()
	f.BoolVar(&o.exit, "exit", false, "end after the check instead of staying up")
	f.IntVar(&o.corrupt, "corrupt", 0, "spoil this many upstream files after they were indexed; they must be refused and named")
	f.StringVar(&o.server, "server", "", "use the platform at this URL instead of starting one")
	f.StringVar(&o.dataDir, "data-dir", "", "where the platform keeps its data; must be empty (default: a temporary directory)")
	f.StringVar(&o.upstream, "upstream", "", "mirror this channel instead of a generated one; its own index is the yardstick")
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return notStarted(fmt.Errorf("%w (see 'entrepot demo --help')", err))
	})
	return c
}

// check refuses flags that contradict each other.
func (o options) check() error {
	switch {
	case o.corrupt < 0:
		return fault.Field("--corrupt", "--corrupt must not be negative")
	case o.corrupt > 0 && o.upstream != "":
		return fault.Field("--corrupt", "--corrupt spoils the generated upstream; it does not go with --upstream")
	case o.server != "" && o.dataDir != "":
		return fault.Field("--data-dir", "--data-dir is for a platform that the demo starts; it does not go with --server")
	}
	return nil
}

// dataDir returns the directory for the platform's data, made if need be, and what deletes it if it is temporary.
func (o options) makeDataDir() (dir string, remove func() error, err error) {
	if o.dataDir == "" {
		if dir, err = os.MkdirTemp("", "entrepot-demo-"); err != nil {
			return "", nil, err
		}
		// The database may run as another user, who must be able to walk through.
		return dir, func() error { return os.RemoveAll(dir) }, os.Chmod(dir, 0o711)
	}
	if err := os.MkdirAll(o.dataDir, 0o711); err != nil {
		return "", nil, err
	}
	d, err := os.Open(o.dataDir)
	if err != nil {
		return "", nil, err
	}
	defer d.Close()
	switch names, err := d.Readdirnames(1); {
	case len(names) > 0:
		return "", nil, fault.Field("--data-dir", "--data-dir %s is not empty; the demo does not touch what is there", o.dataDir)
	case err != nil && !errors.Is(err, io.EOF):
		return "", nil, err
	}
	return o.dataDir, func() error { return nil }, nil
}

// freeAddr returns addr, or any free port on the same host if it is busy.
func freeAddr(addr string) (free string, busy bool) {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		l.Close()
		return addr, false
	}
	host, _, _ := strings.Cut(addr, ":")
	return host + ":0", true
}
