// Package condacli holds the commands of `entrepot conda`: they read channels, solve and look into packages by themselves
// and need no server.
//
// Standard output holds the answer and nothing else; progress, warnings and errors go to standard error. The exit code is
// 0, or 1 where the answer is no (nothing fits, not equal), or 2 where the question was no question.
package condacli

import (
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// app is what the commands share.
type app struct {
	version string // of entrepot, told to servers
	getenv  func(string) string
	now     func() time.Time
}

// Command returns `entrepot conda`.
func Command(version string) *cobra.Command {
	a := &app{version: version, getenv: os.Getenv, now: time.Now}
	root := &cobra.Command{
		Use: "conda", Short: "Solve, lock, search, inspect and index conda packages without a server",
		Long: `Work with conda channels, packages and specs on this machine. No server is needed, and no Python.

  entrepot conda solve -c ./channel 'python >=3.12' numpy
  entrepot conda lock -f environment.yml --platform linux-64 --platform osx-arm64
  entrepot conda search -c https://host/channel 'numpy 1.26.*'
  entrepot conda inspect ./numpy-1.26.4-py312h1234567_0.conda
  entrepot conda pack --lock pixi.lock -o env.tar.gz
  entrepot conda image --lock pixi.lock -o image.tar --tag team/env:1
  entrepot conda index ./channel
  entrepot conda version compare 1.0rc1 1.0

Exit codes: 0 ok · 1 the answer is no (unsolvable, nothing found) · 2 bad input`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return fault.New(fault.Invalid, "there is no command %q in '%s' (see '%s --help')", args[0], cmd.CommandPath(), cmd.CommandPath())
		},
	}
	root.AddCommand(a.solveCommand(), a.lockCommand(), a.searchCommand(), a.inspectCommand(), a.indexCommand(), a.versionCommand(), a.specCommand(), a.installCommand(),
		a.verifyCommand(), a.repairCommand(), a.activateCommand(), a.runCommand(), a.packCommand(), a.imageCommand())
	silence(root)
	return root
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

// negative is the answer no: it was printed already, and only decides the exit code.
type negative struct{}

// Error implements error.
func (negative) Error() string { return "" }

// ExitCode is read by the program's main function.
func (negative) ExitCode() int { return 1 }
