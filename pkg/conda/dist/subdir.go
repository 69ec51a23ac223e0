package dist

import "slices"

// Noarch is the subdir of packages that run everywhere. Its repodata must
// exist in every channel.
const Noarch = "noarch"

// knownSubdirs is conda's own list of August 2026, sorted.
var knownSubdirs = []string{
	"emscripten-wasm32",
	"freebsd-64",
	"linux-32",
	"linux-64",
	"linux-aarch64",
	"linux-armv6l",
	"linux-armv7l",
	"linux-ppc64",
	"linux-ppc64le",
	"linux-riscv32",
	"linux-riscv64",
	"linux-s390x",
	"noarch",
	"osx-64",
	"osx-arm64",
	"wasi-wasm32",
	"win-32",
	"win-64",
	"win-arm64",
	"zos-z",
}

// KnownSubdirs returns the subdirs that conda knows, sorted, noarch among
// them. The slice is the caller's.
func KnownSubdirs() []string { return slices.Clone(knownSubdirs) }

// KnownSubdir reports whether conda knows the subdir. Match specs use it to
// tell "channel/subdir" from a channel with a slash in its name.
func KnownSubdir(s string) bool {
	_, ok := slices.BinarySearch(knownSubdirs, s)
	return ok
}
