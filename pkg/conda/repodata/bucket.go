package repodata

import "strings"

// Bucket names the map of a repodata document that a record stands in.
type Bucket string

const (
	// TarBz2 is "packages": .tar.bz2 archives by file name.
	TarBz2 Bucket = "packages"
	// Conda is "packages.conda": .conda archives by file name.
	Conda Bucket = "packages.conda"
	// V3Conda, V3TarBz2 and V3Whl are the buckets of CEP 48; their keys are file names without extension. whl is a draft.
	V3Conda  Bucket = v3Prefix + "conda"
	V3TarBz2 Bucket = v3Prefix + "tar.bz2"
	V3Whl    Bucket = v3Prefix + "whl"
)

const v3Prefix = "v3/"

// V3 reports whether the bucket lies under the "v3" key, hidden from clients older than CEP 48.
func (b Bucket) V3() bool { return strings.HasPrefix(string(b), v3Prefix) }

// V3Name is the bucket's key under "v3", such as "tar.bz2"; empty for the two classic buckets.
func (b Bucket) V3Name() string {
	name, ok := strings.CutPrefix(string(b), v3Prefix)
	if !ok {
		return ""
	}
	return name
}

// Extension is what the files of the bucket end in, dot included; empty if the bucket is unknown.
func (b Bucket) Extension() string {
	switch b {
	case TarBz2, V3TarBz2:
		return ".tar.bz2"
	case Conda, V3Conda:
		return ".conda"
	case V3Whl:
		return ".whl"
	}
	return ""
}

// Filename is the file that a key of this bucket stands for. (A whl record carries its own url instead.)
func (b Bucket) Filename(key string) string {
	if b.V3() {
		return key + b.Extension()
	}
	return key
}

// rank orders buckets as every index lists them (CEP 48: a solver's last tie-break is the order of records).
func (b Bucket) rank() int {
	switch {
	case b == TarBz2:
		return 0
	case b == Conda:
		return 1
	case b.V3():
		return 2
	}
	return -1
}

// path is the bucket's place in the document.
func (b Bucket) path(key string) string {
	if b.V3() {
		return pointer("v3", b.V3Name(), key)
	}
	return pointer(string(b), key)
}
