package archive

// Limits bounds the work that one package may cause. A zero field means its
// default; the zero Limits is right for uploads from strangers.
type Limits struct {
	// MaxUnpacked is the greatest decompressed size of a whole package in
	// bytes, tar headers included. Default 64 GiB: CUDA packages reach 4 GiB,
	// and the ratio is the real guard.
	MaxUnpacked int64
	// MaxRatio is the greatest ratio of decompressed to compressed size once
	// more than RatioFloor bytes came out. Default 300; real packages that
	// consist of tables and logs reach 100.
	MaxRatio int64
	// RatioFloor is how many decompressed bytes any package may have, however
	// small it is. Default 64 MiB.
	RatioFloor int64
	// MaxInfo is the greatest decompressed size of the info member of a
	// .conda, which is read even to inspect it. Default 512 MiB (recipes with
	// bundled test data).
	MaxInfo int64
	// MaxMetadata is the greatest size of one metadata file that is kept in
	// memory. Default 4 MiB; the largest real index.json has 30 kB.
	MaxMetadata int64
	// MaxPaths is the same for paths.json, files and has_prefix, which grow
	// with the number of files. Default 64 MiB.
	MaxPaths int64
	// MaxEntries is the greatest number of files, links and directories,
	// implied ones included. Default 400,000.
	MaxEntries int
	// MaxNames is the greatest sum of the lengths of all entries' names and
	// link targets in bytes. Default 64 MiB.
	MaxNames int64
	// MaxDepth is how deep JSON may nest. Default 64.
	MaxDepth int
	// MaxWindow is the largest zstd window, which is memory the decoder needs.
	// Default 128 MiB, what "zstd --ultra -22" makes.
	MaxWindow int64
	// Case says what happens to names that differ only by case.
	Case CasePolicy
	// Links says where symbolic links may point.
	Links LinkPolicy
}

// CasePolicy decides about names that differ only by case. Within info/ they
// are always refused.
type CasePolicy uint8

const (
	// CaseBySubdir refuses them unless index.json says that the package is for
	// Linux or FreeBSD, whose file systems tell them apart. The default:
	// ncurses ships terminfo/P and terminfo/p.
	CaseBySubdir CasePolicy = iota
	// CaseRefuse refuses them in every package.
	CaseRefuse
	// CaseAllow allows them in every package.
	CaseAllow
)

// LinkPolicy decides where symbolic links may point. Nothing is ever written
// through one.
type LinkPolicy uint8

const (
	// LinksInside refuses absolute targets and targets that leave the package,
	// also by way of other links. The default.
	LinksInside LinkPolicy = iota
	// LinksVerbatim keeps any target as it is.
	LinksVerbatim
)

func (l Limits) withDefaults() Limits {
	def := func(p *int64, v int64) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&l.MaxUnpacked, 64<<30)
	def(&l.MaxRatio, 300)
	def(&l.RatioFloor, 64<<20)
	def(&l.MaxInfo, 512<<20)
	def(&l.MaxMetadata, 4<<20)
	def(&l.MaxPaths, 64<<20)
	def(&l.MaxNames, 64<<20)
	def(&l.MaxWindow, 128<<20)
	if l.MaxEntries <= 0 {
		l.MaxEntries = 400_000
	}
	if l.MaxDepth <= 0 {
		l.MaxDepth = 64
	}
	return l
}

// budget returns how many bytes may come out of so many compressed ones.
func (l Limits) budget(compressed int64) int64 {
	b := l.MaxUnpacked
	if compressed <= b/l.MaxRatio {
		b = compressed * l.MaxRatio
	}
	return min(max(b, l.RatioFloor), l.MaxUnpacked)
}

// Option changes how a reader works.
type Option func(*options)

type options struct {
	full      bool
	lenient   bool
	keepPaths bool
	exactMode bool
	subdir    string
}

func gather(opts []Option) (o options) {
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// Full makes Inspect decompress and check every entry of the package, as Walk
// and Extract always do. Without it the files of a .conda are not looked at,
// and reading a .tar.bz2 may stop after info/ (see [Info].Complete).
func Full() Option { return func(o *options) { o.full = true } }

// KeepPaths makes the result carry paths.json, files, has_prefix and no_link,
// which may be large.
func KeepPaths() Option { return func(o *options) { o.keepPaths = true } }

// Lenient accepts a .conda without metadata.json. Readers in the field do, and
// hand-made channels hold some; an upload must be complete.
func Lenient() Option { return func(o *options) { o.lenient = true } }

// ExactModes makes Extract keep the write access of group and others, where the
// package gives it. An environment must have the modes of the package; a
// directory that nobody else may enter is the caller's way to keep them out.
func ExactModes() Option { return func(o *options) { o.exactMode = true } }

// Subdir demands that index.json, if it names a subdir, names this one.
func Subdir(s string) Option { return func(o *options) { o.subdir = s } }
