package blob

import (
	"os"

	"golang.org/x/sys/unix"
)

// flushData makes a file's bytes and size durable; its times need not be.
func flushData(f *os.File) error {
	return control(f, "fdatasync", unix.Fdatasync)
}

// flushFS flushes the whole file system. Since Linux 5.8 it reports write errors since f was opened.
func flushFS(f *os.File) error {
	return control(f, "syncfs", unix.Syncfs)
}

func control(f *os.File, op string, call func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var cerr error
	err = c.Control(func(fd uintptr) {
		for {
			if cerr = call(int(fd)); cerr != unix.EINTR {
				return
			}
		}
	})
	if err == nil {
		err = os.NewSyscallError(op, cerr)
	}
	return err
}
