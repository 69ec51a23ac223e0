package solve

import (
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/entrepot-dev/entrepot/pkg/conda/arena"
	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
)

// file is one file of a repo: a record of an arena, or a package. The fields are what every solve looks at; strings may alias
// the arena.
type file struct {
	src       *source
	rec       *arena.Rec // nil if there is a package only
	pkgOf     *Package   // as it was given, or of a virtual package
	made      atomic.Pointer[Package]
	build     string
	number    uint64
	timestamp int64
}

func fileOf(s *source, p *Package) *file {
	return &file{src: s, pkgOf: p, build: p.Build, number: p.BuildNumber, timestamp: p.Timestamp}
}

func recordFile(s *source, r *arena.Rec) *file {
	return &file{src: s, rec: r, build: s.Arena.Str(r.Build), number: s.Arena.BuildNumber(r), timestamp: r.Timestamp}
}

func (f *file) clone() *file {
	c := new(file)
	c.replace(f)
	return c
}

func (f *file) replace(o *file) {
	f.src, f.rec, f.pkgOf, f.build, f.number, f.timestamp = o.src, o.rec, o.pkgOf, o.build, o.number, o.timestamp
}

// Package returns the file as a package, made on first use.
func (f *file) Package() *Package {
	if f.pkgOf != nil {
		return f.pkgOf
	}
	if p := f.made.Load(); p != nil {
		return p
	}
	a := f.src.Arena
	p := &Package{Channel: f.src.Channel, FileName: a.FileName(f.rec)}
	var err error
	if p.Record, err = a.Record(f.rec); err != nil {
		// Only a snapshot that was made to deceive has such a record: what can be said of it is its name.
		p.Name, p.Version, p.Build = strings.Clone(a.Str(f.rec.Name)), strings.Clone(a.Str(f.rec.Version)), strings.Clone(f.build)
	}
	if p.Subdir == "" {
		p.Subdir = f.src.Subdir
	}
	switch {
	case p.Record.URL != "" && f.src.Resolve != nil:
		p.Record.URL = f.src.Resolve(p.Record.URL)
	case p.Record.URL != "":
	case f.src.Base != "":
		p.Record.URL = f.src.Base + p.FileName
	}
	runtime.KeepAlive(a)
	if !f.made.CompareAndSwap(nil, p) {
		return f.made.Load()
	}
	return p
}

// String returns name, version and build.
func (f *file) String() string {
	if f.pkgOf != nil {
		return f.pkgOf.String()
	}
	a := f.src.Arena
	return a.Str(f.rec.Name) + " " + a.Str(f.rec.Version) + " " + f.build
}

func (f *file) name() string {
	if f.pkgOf != nil {
		return f.pkgOf.Name
	}
	return f.src.Arena.Str(f.rec.Name)
}

func (f *file) versionText() string {
	if f.pkgOf != nil {
		return f.pkgOf.Version
	}
	return f.src.Arena.Str(f.rec.Version)
}

// stem returns the file's name without extension, and how good its format is.
func (f *file) stem() (string, int) {
	if f.pkgOf != nil {
		return splitFile(f.pkgOf.FileName)
	}
	a := f.src.Arena
	if f.rec.File != 0 {
		return splitFile(a.FileName(f.rec))
	}
	_, quality := splitFile(a.Extension(f.rec))
	return a.Str(f.rec.Name) + "-" + a.Str(f.rec.Version) + "-" + f.build, quality
}

func (f *file) feature() bool {
	if f.pkgOf != nil {
		return len(f.pkgOf.TrackFeatures) > 0
	}
	return f.rec.Flags&arena.TrackFeatures != 0
}

func (f *file) revoked() bool {
	if f.pkgOf != nil {
		return f.pkgOf.Revoked
	}
	return f.rec.Flags&arena.Revoked != 0
}

func (f *file) channelName() string {
	if f.pkgOf != nil {
		return f.pkgOf.Channel
	}
	return f.src.Channel
}

// published is when the package appeared, in milliseconds: when the channel first listed it (CEP 47), else when it was
// built; 0 if neither is known.
func (f *file) published() int64 {
	indexed := int64(0)
	if f.pkgOf != nil {
		indexed = f.pkgOf.IndexedTimestamp
	} else {
		indexed = f.rec.Indexed
	}
	if indexed > 0 {
		return indexed
	}
	return f.timestamp
}

// location is Package.Location.
func (f *file) location() string { return f.Package().Location() }

// matchable is the candidate as a match spec sees it. What few specs ask for is filled in for those only.
func (c *candidate) matchable(s *matchspec.Spec) matchspec.Candidate {
	mc := matchspec.Candidate{
		Name: c.group.name, Version: *c.version, Build: c.build, BuildNumber: c.number,
		Channel: c.channelName(),
	}
	rare := s.MD5 != "" || s.SHA256 != "" || s.URL != "" || len(s.Flags) > 0 || !s.Subdir.IsZero() || !s.FileName.IsZero() ||
		!s.License.IsZero() || !s.LicenseFamily.IsZero() || !s.Features.IsZero() || !s.TrackFeatures.IsZero()
	if rare {
		p := c.Package()
		mc.Subdir, mc.FileName, mc.URL, mc.MD5, mc.SHA256 = p.Subdir, p.FileName, p.Record.URL, p.MD5, p.SHA256
		mc.License, mc.LicenseFamily, mc.Features, mc.TrackFeatures, mc.Flags = p.License, p.LicenseFamily, p.Features, p.TrackFeatures, p.Flags
	}
	return mc
}

// splitFile returns a file name's stem and how good its format is.
func splitFile(name string) (stem string, quality int) {
	for i, ext := range []string{".whl", ".tar.bz2", ".conda"} {
		if s, ok := strings.CutSuffix(name, ext); ok {
			return s, i + 1
		}
	}
	return name, 0
}
