package install

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// startConfined starts a program in a sandbox and says which parts of it could not be had. If all are required it does
// not start without one of them.
func startConfined(command func() *exec.Cmd, p *program, require bool) (*exec.Cmd, []string, error) {
	cmd := command()
	// No user is mapped into the namespace: a program then sees itself as nobody, while its files are those of this user.
	// Mapping one takes writing to /proc, which Landlock forbids to the thread that does it.
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWPID
	missing, err := startEnclosed(cmd, p, require)
	if err != nil && refusesNamespaces(err) {
		if require {
			return nil, nil, &SandboxError{fmt.Errorf("namespaces: %w", err)}
		}
		cmd = command()
		missing, err = startEnclosed(cmd, p, require)
		missing = append(missing, "namespaces: it could send signals to other programs of this user")
	}
	return cmd, missing, err
}

// refusesNamespaces: container runtimes and hardened kernels answer with one of these.
func refusesNamespaces(err error) bool {
	var no *SandboxError
	return !errors.As(err, &no) &&
		(errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSYS))
}

// startEnclosed starts a program from a thread that was confined for it. The thread is thrown away: a goroutine that
// ends while it is locked to its thread takes the thread along. (So there is no Pdeathsig, which fires at the end of the
// thread; the command's context ends the program.)
func startEnclosed(cmd *exec.Cmd, p *program, require bool) (missing []string, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if ferr := confine(p); ferr != nil {
			missing, err = append(missing, "Landlock: it could read and write all files of this user"), ferr
		}
		if serr := forbidSockets(); serr != nil {
			missing, err = append(missing, "a filter of system calls: it could reach the network, and programs that listen on this machine"), serr
		}
		if err != nil && require {
			err = &SandboxError{err}
			return
		}
		err = cmd.Start()
	}()
	<-done
	return missing, err
}

// endGroup ends what a program has left running. Its process is waited for but not yet gone, so that its number, which is
// the group's, is nobody else's.
func endGroup(cmd *exec.Cmd) {
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
}

// System directories that programs need: not /etc as a whole, not /home, not /proc, not /run.
var systemReadable = []string{
	"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store",
	"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/passwd", "/etc/group",
	"/etc/nsswitch.conf", "/etc/localtime", "/etc/locale.conf", "/etc/ssl/certs",
	"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom",
}

const (
	fileRead  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE
	dirRead   = fileRead | unix.LANDLOCK_ACCESS_FS_READ_DIR
	fileWrite = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	dirWrite  = fileWrite | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SYM |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_REFER
	// handled holds everything that is forbidden unless a rule allows it; devices cannot be made at all.
	handled = dirRead | dirWrite | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
)

// confine takes from this thread, and from what it starts, all files but those that the program needs.
func confine(p *program) error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	if abi < 3 {
		return fmt.Errorf("landlock: the kernel knows version %d, and 3 is the first that guards what it should", abi)
	}
	mask := uint64(handled)
	attr := unix.LandlockRulesetAttr{}
	size := unsafe.Sizeof(attr.Handled_access_fs)
	if abi < 5 {
		mask &^= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	attr.Handled_access_fs = mask
	if abi >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		size += unsafe.Sizeof(attr.Handled_access_net)
	}
	if abi >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
		size += unsafe.Sizeof(attr.Scoped)
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	defer unix.Close(int(fd))
	for _, name := range append(systemReadable[:len(systemReadable):len(systemReadable)], p.readable...) {
		access := uint64(dirRead)
		if name == "/dev/null" {
			access |= fileWrite
		}
		if err := allow(int(fd), name, access, 0); err != nil {
			return err
		}
	}
	for _, name := range p.writable {
		// A link in the place of a directory of the prefix would let the program write where it leads.
		if err := allow(int(fd), name, dirRead|dirWrite, unix.O_NOFOLLOW); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	return nil
}

// allow adds a rule. What does not exist needs none.
func allow(ruleset int, name string, access uint64, flags int) error {
	f, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC|flags, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("landlock: %s: %w", name, err)
	}
	defer unix.Close(f)
	var st unix.Stat_t
	if err := unix.Fstat(f, &st); err != nil {
		return fmt.Errorf("landlock: %s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= fileRead | fileWrite // the others are for directories, and refused on files
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(f)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("landlock: %s: %w", strings.ToValidUTF8(name, "?"), errno)
	}
	return nil
}
