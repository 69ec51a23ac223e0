package virtual

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

// Host is a machine as far as detection needs to know it.
type Host struct {
	Platform string // subdir of the machine itself, such as linux-64
	Root     fs.FS  // its file system from the root; nil if nothing can be read
	// LookupEnv finds overrides, as os.LookupEnv does; nil if there are none.
	LookupEnv func(string) (string, bool)
}

// OverrideError is a CONDA_OVERRIDE_ variable that makes no sense.
type OverrideError struct {
	Variable string
	Value    string
	Reason   string
}

// Error implements error.
func (e *OverrideError) Error() string {
	return fmt.Sprintf("%s=%q: %s", e.Variable, e.Value, e.Reason)
}

// Detect returns the virtual packages for a target platform, sorted by name. For the host's own platform it looks and
// applies overrides; for any other it returns the [Defaults]. What cannot be read is taken as unknown; the only error
// is an *[OverrideError].
func (h Host) Detect(target string) ([]Package, error) {
	if target != h.Platform {
		return Defaults(target), nil
	}
	out := Defaults(target)
	if strings.HasPrefix(target, "linux-") {
		out = h.detectLinux(out)
	}
	out, err := h.override(out)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b Package) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func (h Host) detectLinux(out []Package) []Package {
	if h.Root == nil {
		return out
	}
	var kept []Package
	for _, p := range out {
		switch p.Name {
		case "__linux":
			if v := h.kernel(); v != "" {
				p.Version = v
			}
		case "__glibc":
			v, found := h.glibc()
			if !found {
				continue // another C library, such as musl
			}
			p.Version = cmp.Or(v, p.Version)
		case "__archspec":
			if arch := h.microarchitecture(); arch != "" {
				p.Version, p.Build = "1", arch
			}
		}
		kept = append(kept, p)
	}
	if v := h.cuda(); v != "" {
		kept = append(kept, Package{"__cuda", v, "0"})
	}
	return kept
}

// kernelVersion is the part of a release that kernel.org gave it: distributions add suffixes of their own.
var kernelVersion = regexp.MustCompile(`^[0-9]+\.[0-9]+(\.[0-9]+)?(\.[0-9]+)?`)

func (h Host) kernel() string {
	return kernelVersion.FindString(strings.TrimSpace(h.read("proc/sys/kernel/osrelease", 256)))
}

// libcs are the places of glibc's shared library, the multiarch ones first.
var libcs = []string{
	"lib/x86_64-linux-gnu/libc.so.6", "lib/aarch64-linux-gnu/libc.so.6", "lib/powerpc64le-linux-gnu/libc.so.6",
	"lib/s390x-linux-gnu/libc.so.6", "lib/riscv64-linux-gnu/libc.so.6", "lib/i386-linux-gnu/libc.so.6",
	"lib/arm-linux-gnueabihf/libc.so.6", "lib64/libc.so.6", "usr/lib64/libc.so.6", "lib/libc.so.6", "usr/lib/libc.so.6",
}

// glibcBanner is what the library prints when it is run as a program; the text lies in its read-only data.
var glibcBanner = regexp.MustCompile(`GNU C Library [^\n\x00]* version ([0-9]+\.[0-9]+)`)

// glibc reports whether the machine has glibc, and its version if that can be told.
func (h Host) glibc() (v string, found bool) {
	for _, path := range libcs {
		f, err := h.Root.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", true
		}
		v := scanBanner(f)
		f.Close()
		return v, true
	}
	if musl, _ := fs.Glob(h.Root, "lib/ld-musl-*.so.1"); len(musl) > 0 {
		return "", false
	}
	return "", true
}

// scanBanner looks for the banner in blocks that overlap, so that memory stays small and no match is cut.
func scanBanner(r io.Reader) string {
	const block, overlap, most = 1 << 18, 512, 64 << 20
	buf := make([]byte, 0, block+overlap)
	for total := 0; total < most; {
		n, err := io.ReadFull(r, buf[len(buf) : block+overlap][:block])
		buf = buf[:len(buf)+n]
		total += n
		if bytes.Contains(buf, []byte("GNU C Library")) {
			if m := glibcBanner.FindSubmatch(buf); m != nil {
				return string(m[1])
			}
		}
		if err != nil {
			return ""
		}
		keep := copy(buf[:overlap], buf[len(buf)-overlap:])
		buf = buf[:keep]
	}
	return ""
}

// driverCUDA lists the first driver branch that supports a CUDA version, newest first (the vendor's table of minimum
// driver versions). The driver itself only tells through a library call, which would need cgo.
var driverCUDA = []struct {
	branch int
	cuda   string
}{
	{580, "13.0"},
	{575, "12.9"},
	{570, "12.8"},
	{565, "12.7"},
	{560, "12.6"},
	{555, "12.5"},
	{550, "12.4"},
	{545, "12.3"},
	{535, "12.2"},
	{530, "12.1"},
	{525, "12.0"},
	{520, "11.8"},
	{515, "11.7"},
	{510, "11.6"},
	{495, "11.5"},
	{470, "11.4"},
	{465, "11.3"},
	{460, "11.2"},
	{455, "11.1"},
	{450, "11.0"},
	{440, "10.2"},
	{418, "10.1"},
	{410, "10.0"},
	{396, "9.2"},
	{390, "9.1"},
	{384, "9.0"},
}

var driverVersion = regexp.MustCompile(`NVRM version:.*?\s([0-9]{3,})\.[0-9]+`)

// cuda returns the highest CUDA version of the loaded driver, or "" if there is none.
func (h Host) cuda() string {
	m := driverVersion.FindStringSubmatch(h.read("proc/driver/nvidia/version", 4096))
	if m == nil {
		return ""
	}
	branch := 0
	for _, c := range m[1] {
		branch = min(branch*10+int(c-'0'), 1<<20)
	}
	for _, d := range driverCUDA {
		if branch >= d.branch {
			return d.cuda
		}
	}
	return ""
}

// read returns up to most bytes of a file, or "" if it cannot be read.
func (h Host) read(path string, most int64) string {
	f, err := h.Root.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return ""
	}
	return string(data)
}
