// Package lock reads and writes lists of exact packages: what a solve found, kept so that it can be installed again.
//
//	pixi.lock            Pixi        versions 6 and 7; several environments and platforms
//	conda-lock.yml       CondaLock   version 1 (CEP 37)
//	explicit.txt         Explicit    one URL a line behind @EXPLICIT (CEP 23)
//
// All three give packages as Package. Reading keeps what this package does not understand (source builds, PyPI packages,
// unknown keys), and writing gives it back: a file that one of the field's tools wrote, read and written again, is the
// same file byte for byte.
//
// A lock is made to be shared, so the URLs in new ones hold no secrets (see dist.WithoutSecrets). Explicit lists are written
// anew each time, also what was read.
//
// Errors are *Error, with line and column.
package lock

import (
	"errors"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/internal/yamltree"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// Error says what is wrong with a file, and where.
type Error struct {
	Line, Column int // counted from one; zero if it is about the whole
	Msg          string
}

// Error implements error.
func (e *Error) Error() string {
	return (&yamltree.Error{Line: e.Line, Column: e.Column, Msg: e.Msg}).Error()
}

// located makes an *Error of what a reader returned.
func located(err error) error {
	var e *yamltree.Error
	if errors.As(err, &e) {
		return &Error{Line: e.Line, Column: e.Column, Msg: e.Msg}
	}
	return err
}

// Manager is who installs a package.
type Manager string

// The managers that lock files know.
const (
	Conda Manager = "conda"
	// Source is a conda package that is built from source first.
	Source Manager = "conda_source"
	PyPI   Manager = "pypi"
)

// Package is a package of a lock file. Of those that are not Conda only Manager, Location, Name and Version are set.
type Package struct {
	Manager Manager
	// Location is the URL, or a path where the lock has one.
	Location string
	// Record is what the lock says of the package; MD5 and SHA256 may be empty.
	repodata.Record
	Channel  string // URL without subdir; empty if unknown
	FileName string
	Purls    []string // package URLs of what it is elsewhere; nil is unknown, empty none
	Category string   // of conda-lock: "main", "dev", …
	Optional bool     // of conda-lock
}

// shared is the package as it may be written down.
func (p Package) shared() Package {
	p.Location, p.Channel = dist.WithoutSecrets(p.Location), dist.WithoutSecrets(p.Channel)
	return p
}
