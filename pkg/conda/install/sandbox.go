package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Sandbox says how programs of packages are enclosed: link scripts, and the interpreter that compiles.
//
// What encloses them is what a process may do to its children without any right, on Linux:
//
//   - Landlock for files: reading the system's programs and libraries and the prefix, writing to the directories of the
//     prefix but conda-meta (the interpreter that compiles: to __pycache__ alone);
//   - a filter of system calls (seccomp): no sockets of any kind, so neither the network nor the sockets of other programs
//     that lie in the file system, nor what would get around that, nor keyrings;
//   - new user, network, IPC and PID namespaces: no interfaces, no shared memory, no signals to others, and nothing that a
//     program starts outlives it.
//
// The environment has nothing of the caller's, standard input is empty, and there is a limit of time.
//
// What is not there: limits of memory, processor and disk; a view of /proc of its own; a guard of what Landlock does not
// guard, which is that a program can see whether a file exists, and can change the mode, times and attributes of files
// that this user owns. Those are for the container around a builder. On other systems there is only the empty environment
// and the limit of time.
//
// Where a part of this cannot be had, nothing is run, which is an error for scripts and a warning for compiling.
type Sandbox struct {
	// Off runs programs with the empty environment and the limit of time alone, for systems where the rest fails.
	Off bool
	// Try runs programs with as much of it as can be had, and warns of what is missing.
	Try bool
	// Timeout ends a program. Default 10 minutes.
	Timeout time.Duration
}

// program is something to run in a sandbox.
type program struct {
	args     []string
	dir      string
	env      []string
	writable []string // absolute paths of directories
	readable []string
	pkg      string // for warnings
}

// maxOutput bounds what is kept of a program's output.
const maxOutput = 64 << 10

// ProgramError is a program of a package that failed.
type ProgramError struct {
	Package string
	What    string // such as the script's path
	Output  string // the end of what it printed
	Err     error
}

// Error implements error.
func (e *ProgramError) Error() string {
	msg := fmt.Sprintf("%s: %s: %v", e.Package, e.What, e.Err)
	if out := strings.TrimSpace(e.Output); out != "" {
		msg += "\n" + out
	}
	return msg
}

// Unwrap returns the cause.
func (e *ProgramError) Unwrap() error { return e.Err }

// SandboxError says that a program was not run because it could not be enclosed.
type SandboxError struct{ Err error }

// Error implements error.
func (e *SandboxError) Error() string { return fmt.Sprintf("there is no full sandbox here: %v", e.Err) }

// Unwrap returns the cause.
func (e *SandboxError) Unwrap() error { return e.Err }

var errTime = errors.New("it took too long")

// run runs a program and returns what it printed.
func (s *Sandbox) run(ctx context.Context, p *program, warn func(pkg, msg string)) (string, error) {
	limit := s.Timeout
	if limit <= 0 {
		limit = 10 * time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errTime)
	defer cancel()
	out := &tail{}
	command := func() *exec.Cmd {
		cmd := exec.CommandContext(ctx, p.args[0], p.args[1:]...)
		cmd.Dir, cmd.Env = p.dir, p.env
		cmd.Stdout, cmd.Stderr = out, out
		ownGroup(cmd)
		cmd.WaitDelay = 5 * time.Second // for who holds the output open beyond the program's end
		return cmd
	}
	var cmd *exec.Cmd
	var err error
	if s.Off {
		cmd = command()
		err = cmd.Start()
	} else {
		var missing []string
		cmd, missing, err = startConfined(command, p, !s.Try)
		if len(missing) > 0 && err == nil {
			warn(p.pkg, "what packages bring was run without "+strings.Join(missing, " and "))
		}
	}
	if err != nil {
		return "", err
	}
	endGroup(cmd) // what it left running would hold its output open, and go on writing
	err = cmd.Wait()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return out.String(), err
}

// tail keeps the end of what is written to it.
type tail struct{ buf bytes.Buffer }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p)
	if over := t.buf.Len() - maxOutput; over > maxOutput {
		t.buf.Next(over)
	}
	return len(p), nil
}

// String returns what was kept.
func (t *tail) String() string {
	b := t.buf.Bytes()
	return string(b[max(0, len(b)-maxOutput):])
}
