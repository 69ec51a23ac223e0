// Package client holds the commands that talk to a server: login, channels, packages, jobs and tokens.
//
// They are a program like any other that uses the REST API; nothing here reaches into the server. Which server, and with
// which key, is decided the same way for all of them (connect.go): flags, then environment, then what login has kept.
// Standard output holds what was asked for, in the form that --output names; progress, questions and errors go to
// standard error. So every command can stand in a pipe.
//
// Errors name the flag that caused them and what to do (explain.go); their kind decides the exit code.
package client

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// app is what the commands share.
type app struct {
	version string
	getenv  func(string) string
	now     func() time.Time
	backoff func(int) time.Duration // between attempts to reach the server; nil is the client's own

	// flags
	server  string
	keyFile string
	output  string
}

// Commands returns the client's commands. version is told to servers.
func Commands(version string) []*cobra.Command {
	return (&app{version: version, getenv: os.Getenv, now: time.Now}).commands()
}

func (a *app) commands() []*cobra.Command {
	list := []*cobra.Command{
		a.loginCommand(), a.logoutCommand(), a.channelCommand(), a.packageCommand(), a.jobCommand(), a.tokenCommand(), a.adminCommand(), a.importCommand(),
	}
	for _, c := range list {
		c.PersistentFlags().StringVar(&a.server, "server", "", "URL of the server (default: ENTREPOT_SERVER, else the last login, else "+defaultServer+")")
		c.PersistentFlags().StringVar(&a.keyFile, "api-key-file", "", "file that holds the API key (default: ENTREPOT_API_KEY, else that of the login)")
		silence(c)
	}
	return list
}

// silence leaves the printing of errors to the program's main function.
func silence(c *cobra.Command) {
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fault.New(fault.Invalid, "%w (see '%s --help')", err, cmd.CommandPath())
	})
	for _, sub := range c.Commands() {
		silence(sub)
	}
}

// group makes a command that only holds others. cobra by itself would answer an unknown one with help and success.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return fault.New(fault.Invalid, "there is no command %q in '%s' (see '%s --help')", args[0], cmd.CommandPath(), cmd.CommandPath())
		},
	}
	c.AddCommand(subs...)
	return c
}

// want checks the number of arguments and names those that are missing. A last name that ends in … takes any number
// from one on.
func want(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		many := len(names) > 0 && strings.HasSuffix(names[len(names)-1], "…")
		switch {
		case len(args) < len(names):
			return fault.New(fault.Invalid, "%s is missing (see '%s --help')", names[len(args)], cmd.CommandPath())
		case len(args) > len(names) && !many:
			return fault.New(fault.Invalid, "%q is one argument too many (see '%s --help')", args[len(names)], cmd.CommandPath())
		}
		return nil
	}
}

// quiet is an error that was reported already; it only carries the exit code.
type quiet struct{ code int }

func (quiet) Error() string   { return "" }
func (q quiet) ExitCode() int { return q.code }

const (
	exitFailed      = 1
	exitInterrupted = 130 // 128 + SIGINT, as shells count
)

// formats of --output.
var formats = []string{"table", "json", "yaml"}

func (a *app) outputFlag(cmds ...*cobra.Command) {
	for _, c := range cmds {
		c.Flags().StringVarP(&a.output, "output", "o", "table", "how to print: "+strings.Join(formats, ", "))
		run := c.RunE
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(formats, a.output) {
				return fault.Field("--output", "--output must be %s, not %q", strings.Join(formats, ", "), a.output)
			}
			return run(cmd, args)
		}
	}
}

// terminal returns the file that w is, if that is a terminal.
func terminal(w any) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// note writes a line for a person, beside the output.
func note(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...)
}
