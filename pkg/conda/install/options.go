package install

import (
	"cmp"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/pkgcache"
)

// PycMode says whether the environment's own interpreter compiles noarch python packages when they are installed.
type PycMode string

// Modes of compiling. Unchecked hashes give the same bytes on every machine; time stamps are Python's own default.
const (
	PycOff       PycMode = "off"
	PycUnchecked PycMode = "unchecked-hash"
	PycTimestamp PycMode = "timestamp"
)

// Policy says what happens to something doubtful. The zero value is the safe one.
type Policy uint8

// Policies.
const (
	Refuse Policy = iota
	Warn
)

// Options are how an installation is to be done. Cache and Platform are required.
type Options struct {
	Cache  *pkgcache.Cache
	Source pkgcache.Source // where packages are fetched from that are not in the cache; nil: files of this machine only
	// Platform is the subdir that the prefix is for, such as linux-64.
	Platform string
	// Target is the path that files will have written into them, if it is not the prefix's own: the place that the
	// environment will be moved to.
	Target string

	// From, unless it is nil, are the records that want was made from, as Settle returned them. If others are installed by the
	// time that the prefix is locked, Install changes nothing and returns a *ChangedError: what another process installed
	// would be removed otherwise, because nobody wanted it.
	From []*Record

	// Specs are recorded with the packages that they name, by package name; nil leaves what is recorded.
	Specs map[string][]string
	// Command, Tool and Requests go into the history: what was typed, "entrepot version: 1.0", and what it meant.
	Command  string
	Tool     string
	Requests []Request
	Now      func() time.Time // for the history; nil is the clock of this machine

	// Anew has the names of packages to be installed again although nothing changed.
	Anew map[string]bool
	// Copy never links: what is written to a file of the environment then stays there.
	Copy bool
	// Workers is how many files are linked at a time. Default 4: the file system serves no more at once.
	Workers int
	// NoSync leaves it to the system when files reach the disk. A process that dies is no danger, a loss of power is.
	NoSync bool

	// Scripts runs link scripts, which are programs of the packages. By default they are skipped with a warning.
	Scripts bool
	// Pyc compiles noarch python packages. Default PycOff.
	Pyc PycMode
	// Sandbox encloses what is run for Scripts and Pyc. With the zero value nothing is run
	// where a part of it cannot be had.
	Sandbox Sandbox

	// ForceFrozen permits to change an environment that is frozen.
	ForceFrozen bool
	// Escapes says what happens to packages with symbolic links out of the prefix.
	Escapes Policy
	// Foreign says what happens to files in the way of packages that belong to none: with Warn they are moved below
	// ForeignDir. They are never deleted.
	Foreign Policy
	// RefuseClobbers refuses packages that want the same path.
	RefuseClobbers bool

	// Warn is told what the user should know; Progress how far it is. Both may be nil, and are called from one
	// goroutine at a time.
	Warn     func(Warning)
	Progress func(Progress)

	fresh *fresh // of the second attempt

	// hook is called at each step of the transaction; a test's error there stops everything at once, as a crash would.
	hook func(step string) error
}

// ForeignDir is where files that belong to no package go when a package needs their place.
const ForeignDir = link.ForeignDir

// Warning is something that did not stop the installation.
type Warning struct {
	Package string // name-version-build; empty if it is about the whole
	Msg     string
}

// String returns the warning as a line.
func (w Warning) String() string {
	if w.Package == "" {
		return w.Msg
	}
	return w.Package + ": " + w.Msg
}

// Progress is how far an installation is.
type Progress struct {
	Step        string // "unlink", "link", "scripts", "compile", "record"
	Done, Total int
}

// Result is what an installation did.
type Result struct {
	Change   *Change
	Clobbers []link.Clobber
	// Recovered says what was found of a transaction that had been interrupted.
	Recovered Recovery
	// Fetched are the bytes that came from the source. Linked, Copied and Rewritten count files.
	Fetched                   int64
	Linked, Copied, Rewritten int
	// Messages are what link scripts left for the user.
	Messages []Warning
}

func (o *Options) now() time.Time {
	if o.Now != nil {
		return o.Now()
	}
	return time.Now()
}

func (o *Options) workers() int {
	if o.hook != nil {
		return 1 // steps have an order only where one comes after the other
	}
	return cmp.Or(o.Workers, 4)
}

func (o *Options) warn(pkg, msg string) {
	if o.Warn != nil {
		o.Warn(Warning{pkg, msg})
	}
}

func (o *Options) progress(step string, done, total int) {
	if o.Progress != nil {
		o.Progress(Progress{step, done, total})
	}
}

func (o *Options) step(name string) error {
	if o.hook != nil {
		return o.hook(name)
	}
	return nil
}
