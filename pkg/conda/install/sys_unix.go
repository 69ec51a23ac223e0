//go:build unix

package install

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/entrepot-dev/entrepot/pkg/conda/internal/disk"
)

// lockDir takes the lock of a directory and waits for it. It leaves no file behind, and ends with the process.
func lockDir(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if err := disk.Lock(ctx, f); err != nil {
		f.Close()
		return nil, err
	}
	// Whoever had the lock may have removed the directory, and the lock is on nothing then.
	is, ierr := f.Stat()
	now, nerr := os.Lstat(name)
	if ierr != nil || nerr != nil || !os.SameFile(is, now) {
		f.Close()
		return nil, errGone
	}
	return func() { f.Close() }, nil
}

func linkAt(from *os.File, name string, to *os.File, as string) error {
	err := unix.Linkat(int(from.Fd()), name, int(to.Fd()), as, 0)
	if err != nil {
		return &os.LinkError{Op: "link", Old: name, New: as, Err: err}
	}
	return nil
}

// linkAndUnlink moves a file to where nothing lies.
func linkAndUnlink(from *os.File, name string, to *os.File, as string) error {
	if err := linkAt(from, name, to, as); err != nil {
		return err
	}
	return unix.Unlinkat(int(from.Fd()), name, 0)
}

func otherDevice(err error) bool { return errors.Is(err, unix.EXDEV) }

// names is how many names a file has.
func names(st os.FileInfo) uint64 {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return uint64(s.Nlink) //nolint:unconvert // its width differs between systems
	}
	return 1
}

// ownGroup has a program end with all that it started when it is killed.
func ownGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	cmd.Cancel = func() error {
		if err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); err == nil {
			return nil
		}
		return cmd.Process.Kill()
	}
}

func renameAt(from *os.File, name string, to *os.File, as string) error {
	err := unix.Renameat(int(from.Fd()), name, int(to.Fd()), as)
	if err != nil {
		return &os.LinkError{Op: "rename", Old: name, New: as, Err: err}
	}
	return nil
}

// cannotLink says that a file has to be copied instead: another file system, too many names, or a kernel that lets
// nobody link what others own.
func cannotLink(err error) bool {
	return errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EPERM) ||
		errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, errors.ErrUnsupported)
}

// setLinkTime sets the modification time of a symbolic link itself.
func setLinkTime(dir *os.File, name string, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.UtimesNanoAt(int(dir.Fd()), name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}
