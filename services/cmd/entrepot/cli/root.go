// Package cli is the command line of entrepot.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/condacli"
)

// Version is set by the linker.
var Version = "dev"

// Exit codes; docs/cli.md tells them to users.
const (
	exitOK      = 0
	exitFailed  = 1
	exitUsage   = 2
	exitDenied  = 3
	exitMissing = 4
	exitOffline = 5
)

// exitError carries an exit code of its own; without a cause nothing more is printed.
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

// ExitCode lets errors of other packages choose the code.
type ExitCode interface{ ExitCode() int }

// Main runs the command line and returns the exit code.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second Ctrl-C ends the program at once.
	context.AfterFunc(ctx, stop)
	root := Root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if msg := err.Error(); msg != "" {
		fmt.Fprintln(os.Stderr, "entrepot:", msg)
		var f *fault.Error
		if errors.As(err, &f) {
			for _, v := range f.Violations {
				if v.Description != msg {
					fmt.Fprintf(os.Stderr, "  %s: %s\n", v.Field, v.Description)
				}
			}
		}
	}
	var own *exitError
	var code ExitCode
	switch {
	case errors.As(err, &own):
		return own.code
	case errors.As(err, &code):
		return code.ExitCode()
	}
	switch fault.KindOf(err) {
	case fault.Invalid:
		return exitUsage
	case fault.Unauthenticated, fault.Denied:
		return exitDenied
	case fault.NotFound:
		return exitMissing
	case fault.Unavailable, fault.Timeout:
		return exitOffline
	}
	return exitFailed
}

// Root returns the command tree.
func Root() *cobra.Command {
	root := &cobra.Command{
		Use:   "entrepot",
		Short: "Bring software packages in, keep them, and hand them out",
		Long: `Entrepot keeps conda channels: hosted ones, and mirrors of others with every byte verified.

  entrepot serve              the whole platform on this machine
  entrepot demo               the same with a generated upstream that it mirrors and checks
  entrepot login              remember a server and a key for the client commands
  entrepot channel create …   make a channel

Exit codes: 0 ok · 1 failed · 2 bad input or could not start · 3 not logged in or not allowed · 4 not found · 5 server not reached ·
130 interrupted`,
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &exitError{exitUsage, fmt.Errorf("%w (see '%s --help')", err, cmd.CommandPath())}
	})
	root.AddGroup(&cobra.Group{ID: "server", Title: "Server:"}, &cobra.Group{ID: "client", Title: "Client:"}, &cobra.Group{ID: "local", Title: "Without a server:"})
	for _, c := range []*cobra.Command{serveCommand(), demoCommand(), natsCommand(), migrateCommand(), backupCommand(), restoreCommand(), healthCommand(), configCommand()} {
		c.GroupID = "server"
		root.AddCommand(c)
	}
	for _, c := range ClientCommands() {
		c.GroupID = "client"
		root.AddCommand(c)
	}
	conda := condacli.Command(Version)
	conda.GroupID = "local"
	root.AddCommand(conda)
	root.AddCommand(&cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(cmd.OutOrStdout(), "entrepot %s %s %s/%s\n", Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	})
	return root
}
