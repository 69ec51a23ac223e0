package install

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// machines are those whose system calls the filter knows: the name by which the kernel calls the way into it, and the
// number of the one call that stands for all of sockets where there is one besides.
var machines = map[string]struct{ arch, socketcall uint32 }{
	"amd64":   {unix.AUDIT_ARCH_X86_64, 0},
	"arm64":   {unix.AUDIT_ARCH_AARCH64, 0},
	"loong64": {unix.AUDIT_ARCH_LOONGARCH64, 0},
	"ppc64le": {unix.AUDIT_ARCH_PPC64LE, 102},
	"riscv64": {unix.AUDIT_ARCH_RISCV64, 0},
}

// Offsets in struct seccomp_data. Only machines whose low half of a number comes first are listed above.
const (
	atNumber = 0
	atArch   = 4
	atArgs   = 16
)

// x32 marks, on amd64, system calls of a third kind; they have numbers of their own.
const x32 = 0x40000000

// socketFilter is the program that the kernel runs for each system call. It refuses to make sockets, of all families: a
// network namespace alone leaves those in the file system (of a database, of a container engine), which Landlock does not
// guard either, and those to the machine's host (vsock). What comes around that way is refused, too: io_uring, which makes
// sockets without the system call, and programs for another machine, whose calls have other numbers. A pair of connected
// streams, which many programs use within themselves, can be had; a pair of datagrams could be sent elsewhere.
func socketFilter(arch, socketcall uint32) []unix.SockFilter {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		same = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K
	)
	refuse := func(errno unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(errno) }
	f := []unix.SockFilter{
		{Code: load, K: atArch},
		{Code: same, Jt: 1, K: arch},
		{Code: ret, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: load, K: atNumber},
	}
	if arch == unix.AUDIT_ARCH_X86_64 {
		f = append(f,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, Jf: 1, K: x32},
			unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_KILL_PROCESS})
	}
	when := func(number uint32, verdict uint32) {
		f = append(f, unix.SockFilter{Code: same, Jf: 1, K: number}, unix.SockFilter{Code: ret, K: verdict})
	}
	when(unix.SYS_SOCKET, refuse(unix.EAFNOSUPPORT))
	if socketcall != 0 {
		when(socketcall, refuse(unix.ENOSYS))
	}
	for _, n := range []uint32{unix.SYS_IO_URING_SETUP, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL} {
		when(n, refuse(unix.ENOSYS))
	}
	return append(f,
		unix.SockFilter{Code: same, Jt: 1, K: unix.SYS_SOCKETPAIR},
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: load, K: atArgs + 8}, // the type, with flags above
		unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xf},
		unix.SockFilter{Code: same, Jf: 1, K: unix.SOCK_STREAM},
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: ret, K: refuse(unix.EAFNOSUPPORT)},
	)
}

// forbidSockets takes from this thread, and from what it starts, the making of sockets.
func forbidSockets() error {
	m, ok := machines[runtime.GOARCH]
	if !ok {
		return fmt.Errorf("seccomp: the system calls of %s are not known here", runtime.GOARCH)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	filter := socketFilter(m.arch, m.socketcall)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	runtime.KeepAlive(filter)
	return nil
}
