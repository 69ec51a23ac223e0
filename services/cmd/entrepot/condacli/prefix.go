package condacli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/conda/activate"
	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// verified is what verify prints with --json.
type verified struct {
	Status   string        `json:"status"` // ok or damaged
	Prefix   string        `json:"prefix"`
	Problems []problemPath `json:"problems"`
}

func problemPaths(list []install.Problem) []problemPath {
	out := []problemPath{}
	for _, p := range list {
		out = append(out, problemPath{p.Package, p.Path, p.What})
	}
	return out
}

// notPrefix gives the errors of reading an environment their kind.
func notPrefix(err error) error {
	if errors.Is(err, install.ErrNoPrefix) {
		return fault.New(fault.Invalid, "%w", err)
	}
	if errors.As(err, new(*install.RecordError)) {
		return fault.New(fault.Precondition, "%w", err)
	}
	return err
}

func (a *app) verifyCommand() *cobra.Command {
	var f prefixFlags
	c := &cobra.Command{
		Use: "verify --prefix DIR", Short: "Compare the files of an environment with what was installed",
		Long: `Read every file of an environment that belongs to a package and compare it with the package's record. Exit code 1 if one is
missing or was modified. Files that belong to no package are not looked at.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			problems, err := install.Verify(cmd.Context(), f.prefix)
			if err != nil {
				return notPrefix(err)
			}
			v := verified{"ok", f.prefix, problemPaths(problems)}
			if len(problems) > 0 {
				v.Status = "damaged"
			}
			if f.asJSON {
				err = writeJSON(cmd.OutOrStdout(), v, "  ")
			} else {
				for _, p := range problems {
					fmt.Fprintln(cmd.OutOrStdout(), p)
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", v.Prefix, v.Status)
			}
			if err == nil && len(problems) > 0 {
				err = negative{}
			}
			return err
		},
	}
	c.Flags().StringVarP(&f.prefix, "prefix", "p", "", "directory of the environment")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	return c
}

func (a *app) repairCommand() *cobra.Command {
	var f prefixFlags
	var channels channelFlags
	var platform string
	c := &cobra.Command{
		Use: "repair --prefix DIR", Short: "Settle an interrupted installation and install damaged packages again",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			errs := cmd.ErrOrStderr()
			if err := channels.access(a); err != nil {
				return err
			}
			o, err := f.options(a, &channels, platform, errs)
			if err != nil {
				return err
			}
			rep := newReport(f.prefix, "repaired")
			o.Command, o.Warn = "entrepot conda repair --prefix "+f.prefix, rep.warnTo(errs, channels.quiet)
			start := a.now()
			problems, res, err := install.Repair(cmd.Context(), f.prefix, o)
			if err != nil {
				return notPrefix(installError(err))
			}
			rep.fill(res.Change)
			rep.result(res)
			rep.Problems = problemPaths(problems)
			if len(problems) == 0 && res.Recovered == "" {
				rep.Status = "unchanged"
			}
			rep.Timings.Total = float64(a.now().Sub(start).Microseconds()) / 1000
			return rep.print(cmd.OutOrStdout(), f.asJSON)
		},
	}
	f.register(c)
	c.Flags().StringVar(&platform, "platform", hostPlatform(), "subdir that the environment is for")
	c.Flags().BoolVar(&channels.offline, "offline", false, "ask no server: use what the package cache has")
	c.Flags().BoolVarP(&channels.quiet, "quiet", "q", false, "no warnings")
	channels.registerAccess(c)
	return c
}

func (a *app) activateCommand() *cobra.Command {
	var prefix, shell string
	var leave bool
	c := &cobra.Command{
		Use: "activate --prefix DIR [--shell SHELL] [--leave]", Short: "Print what a shell has to evaluate to enter an environment",
		Long: `Print the commands that make a shell enter an environment, or leave it with --leave, for the shell to evaluate. They read the
scripts of the environment's etc/conda/activate.d, which are programs of its packages.`,
		Example: `  eval "$(entrepot conda activate --prefix ./env)"
  entrepot conda activate --prefix ./env --shell fish | source`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			env, err := a.load(cmd, prefix)
			if err != nil {
				return err
			}
			if shell == "" {
				shell = "posix"
				if strings.HasSuffix(a.getenv("SHELL"), "/fish") {
					shell = "fish"
				}
			}
			sh, err := activate.ParseShell(shell)
			if err != nil {
				return fault.Field("--shell", "--shell: %v", err)
			}
			text := env.Script(sh)
			if leave {
				text = env.Leave(sh)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	c.Flags().StringVarP(&prefix, "prefix", "p", "", "directory of the environment")
	c.Flags().StringVar(&shell, "shell", "", "bash, zsh, sh, dash, ksh or fish (default: by SHELL)")
	c.Flags().BoolVar(&leave, "leave", false, "leave the environment instead")
	return c
}

// load reads the environment of a command that runs something in it.
func (a *app) load(cmd *cobra.Command, prefix string) (*activate.Environment, error) {
	f := prefixFlags{prefix: prefix}
	if err := f.check(cmd); err != nil {
		return nil, err
	}
	if !install.IsPrefix(f.prefix) {
		return nil, fault.New(fault.Invalid, "%s: %w", f.prefix, install.ErrNoPrefix)
	}
	if install.Interrupted(f.prefix) {
		fmt.Fprintf(cmd.ErrOrStderr(), "entrepot: warning: an installation in %s was interrupted, or is under way ('entrepot conda repair' settles it)\n", f.prefix)
	}
	env, err := activate.Load(f.prefix)
	if err != nil {
		return nil, fault.New(fault.Precondition, "%w", err)
	}
	if len(env.Ignored) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "entrepot: warning: %s sets variables that activation itself needs, which is ignored: %s\n", f.prefix, strings.Join(env.Ignored, ", "))
	}
	return env, nil
}

// exited hands a program's exit code on.
type exited struct{ code int }

// Error implements error.
func (exited) Error() string { return "" }

// ExitCode is read by the program's main function.
func (e exited) ExitCode() int { return e.code }

func (a *app) runCommand() *cobra.Command {
	var prefix string
	var plain bool
	c := &cobra.Command{
		Use: "run --prefix DIR [--] COMMAND [ARG…]", Short: "Run a command in an environment",
		Long: `Run a command as if the environment were activated, and exit as it does. Unless --no-scripts is given a shell reads the
scripts of etc/conda/activate.d first, where there are any.`,
		Example: `  entrepot conda run --prefix ./env -- python -c 'import numpy'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fault.New(fault.Invalid, "give a COMMAND (see '%s --help')", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			env, err := a.load(cmd, prefix)
			if err != nil {
				return err
			}
			vars := env.Variables(os.Environ())
			if len(env.Enter) > 0 && !plain {
				// The shell is replaced by the command, which so gets the signals.
				args = append([]string{"sh", "-c", env.Script(activate.Posix) + "exec \"$@\"", "sh"}, args...)
				if bash, err := exec.LookPath("bash"); err == nil { // scripts are written for it
					args[0] = bash
				}
				vars = os.Environ()
			}
			name := args[0]
			if !strings.Contains(name, "/") {
				if in := filepath.Join(env.Prefix, "bin", name); len(env.Enter) == 0 || plain {
					if st, err := os.Stat(in); err == nil && !st.IsDir() {
						name = in
					}
				}
			}
			p := exec.CommandContext(cmd.Context(), name, args[1:]...)
			p.Args[0] = args[0]
			p.Env = vars
			p.Stdin, p.Stdout, p.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			p.Cancel = func() error { return p.Process.Signal(syscall.SIGTERM) }
			err = p.Run()
			var exit *exec.ExitError
			switch {
			case errors.As(err, &exit) && exit.ExitCode() >= 0:
				return exited{exit.ExitCode()}
			case errors.Is(err, exec.ErrNotFound):
				return fault.New(fault.Invalid, "there is no command %q in the environment, nor outside", args[0])
			}
			return err
		},
	}
	c.Flags().StringVarP(&prefix, "prefix", "p", "", "directory of the environment")
	c.Flags().BoolVar(&plain, "no-scripts", false, "set variables only, and read no scripts")
	c.Flags().SetInterspersed(false) // what follows the command is its own
	return c
}
