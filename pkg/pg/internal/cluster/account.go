package cluster

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Account is who the server runs as. PostgreSQL refuses to run as root.
type Account struct {
	Name     string
	UID, GID uint32
	// Switch is set when the server's processes must change to the account, that is, when we are root.
	Switch bool
}

// Credential returns what SysProcAttr needs, nil if the server runs as ourselves.
func (a Account) Credential() *syscall.Credential {
	if !a.Switch {
		return nil
	}
	return &syscall.Credential{Uid: a.UID, Gid: a.GID}
}

// chooseAccount returns postgres or nobody for root, else the current user.
func chooseAccount(uid int) (Account, error) {
	if uid != 0 {
		u, err := user.LookupId(strconv.Itoa(uid))
		if err != nil {
			// initdb and postgres both give up with "could not look up effective user ID" later on.
			return Account{}, fault.New(fault.Precondition, "uid %d has no entry in /etc/passwd, so PostgreSQL cannot run as it: "+
				"give the user an entry, or use a running server with --database-url", uid).WithReason("NO_ACCOUNT")
		}
		return Account{Name: u.Username, UID: uint32(uid), GID: uint32(os.Getgid())}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return Account{Name: name, UID: uint32(uid), GID: uint32(gid), Switch: true}, nil
		}
	}
	return Account{}, fault.New(fault.Precondition, "PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody "+
		"to run it as: add one, or use a running server with --database-url").WithReason("NO_ACCOUNT")
}

// checkTraversable reports the first directory above dir that the account may not pass. Without the check the server
// fails with a bare "permission denied" on its own program or data. Access control lists are not looked at.
func checkTraversable(a Account, dir string) error {
	var chain []string
	for d := filepath.Dir(dir); ; d = filepath.Dir(d) {
		chain = append(chain, d)
		if d == filepath.Dir(d) {
			break
		}
	}
	for i := len(chain) - 1; i >= 0; i-- { // from the top, so that the outermost culprit is named
		info, err := os.Stat(chain[i])
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		var need fs.FileMode
		switch {
		case st.Uid == a.UID:
			need = 0o100
		case st.Gid == a.GID:
			need = 0o010
		default:
			need = 0o001
		}
		if info.Mode().Perm()&need == 0 {
			return fault.New(fault.Precondition, "PostgreSQL runs as user %s, who may not enter %s (mode %#o), a parent of %s: "+
				"choose a data directory elsewhere, such as /var/lib/entrepot, or run chmod o+x %s",
				a.Name, chain[i], info.Mode().Perm(), dir, chain[i]).WithReason("PARENT_NOT_TRAVERSABLE")
		}
	}
	return nil
}

// own gives a tree to the account, if it is not its own already. It matters when a cluster that a plain user made is
// started by root later.
func own(a Account, root string) error {
	if !a.Switch {
		return nil
	}
	info, err := os.Lstat(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid == a.UID {
		return nil
	}
	// Inside first, the root last: an interrupted walk is repeated from the start.
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == root {
			return nil
		}
		return os.Lchown(path, int(a.UID), int(a.GID))
	})
	if err != nil {
		return err
	}
	return os.Lchown(root, int(a.UID), int(a.GID))
}
