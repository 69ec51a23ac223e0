package archive

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Kind is what an entry of a package is.
type Kind uint8

const (
	// File is a regular file.
	File Kind = iota + 1
	// Dir is a directory that the package lists explicitly.
	Dir
	// Symlink is a symbolic link; its text is kept as it is.
	Symlink
	// HardLink is a second name of an earlier File.
	HardLink
)

// String returns a word for messages.
func (k Kind) String() string {
	switch k {
	case File:
		return "file"
	case Dir:
		return "directory"
	case Symlink:
		return "symbolic link"
	case HardLink:
		return "hard link"
	}
	return "nothing"
}

const (
	maxPath      = 4096 // bytes, PATH_MAX on Linux
	maxComponent = 255  // bytes, NAME_MAX
	maxPathDepth = 128  // components
	// maxResolveSteps bounds the work of following all links of one package.
	maxResolveSteps = 5_000_000
	maxLinkHops     = 40 // as Linux
)

// cleanPath checks a stranger's path and returns it without the "./" that some
// writers put in front and without the slash that ends a directory. "." means
// the root itself. The second result is the reason for a refusal.
func cleanPath(name string) (string, string) {
	switch {
	case name == "":
		return "", "it is empty"
	case len(name) > maxPath:
		return "", "it is too long"
	case !utf8.ValidString(name):
		return "", "it is not valid UTF-8"
	case strings.IndexByte(name, 0) >= 0:
		return "", "it contains NUL"
	case name[0] == '/' || name[0] == '\\':
		return "", "it is absolute"
	case len(name) > 1 && name[1] == ':' && (name[0]|0x20) >= 'a' && (name[0]|0x20) <= 'z':
		return "", "it begins with a drive letter"
	}
	for strings.HasPrefix(name, "./") {
		name = name[2:]
	}
	name = strings.TrimSuffix(name, "/")
	if name == "" || name == "." {
		return ".", ""
	}
	depth := 0
	for rest, more := name, true; more; {
		var c string
		c, rest, more = strings.Cut(rest, "/")
		if reason := badComponent(c); reason != "" {
			return "", reason
		}
		if depth++; depth > maxPathDepth {
			return "", "it has too many components"
		}
	}
	return name, ""
}

func badComponent(c string) string {
	switch {
	case c == "" || c == ".":
		return "it is not clean (an empty or '.' component)"
	case c == "..":
		return "it has a '..' component"
	case len(c) > maxComponent:
		return "it has a component of more than 255 bytes"
	}
	// On Windows a backslash separates, too: systemd's escaped unit names are
	// fine, a way up is not.
	if strings.IndexByte(c, '\\') >= 0 {
		for p := range strings.SplitSeq(c, `\`) {
			if p == ".." || p == "." || p == "" {
				return "it has a '..' or empty component between backslashes"
			}
		}
	}
	for i := range len(c) {
		if c[i] < 0x20 || c[i] == 0x7f {
			return "it contains a control character"
		}
	}
	return ""
}

// fold maps names that a case-insensitive file system takes for one to the
// same text. Every rune becomes the smallest one of its folding orbit.
func fold(s string) string {
	ascii := true
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || c >= 'A' && c <= 'Z' {
			ascii = false
			break
		}
	}
	if ascii {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf {
			if r >= 'A' && r <= 'Z' {
				r += 'a' - 'A'
			}
			return r
		}
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		if least >= 'A' && least <= 'Z' { // the Kelvin sign and its like
			least += 'a' - 'A'
		}
		return least
	}, s)
}

// tree remembers every name of a package, to notice what one entry would do
// to another.
type tree struct {
	lim     Limits
	kinds   map[string]Kind
	links   map[string]string // symbolic links and their targets
	folded  map[string]string // folded name → first spelling
	names   int64
	clash   *Error // first pair of names that differ only by case
	lastDir string // parents known to be directories
}

func newTree(lim Limits) *tree {
	return &tree{lim: lim, kinds: map[string]Kind{}, folded: map[string]string{}}
}

// add enters one path, which must be clean, with all its parents.
func (t *tree) add(path string, kind Kind, link string) error {
	t.names += int64(len(path) + len(link))
	if t.names > t.lim.MaxNames {
		return refuse("", "", "the names of the entries exceed the limit of %d bytes", t.lim.MaxNames)
	}
	low := fold(path)
	if parent := parentOf(path); parent != "" && parent != t.lastDir {
		// A folded rune may have another length, so cut both at the n-th slash.
		for i, j := 0, 0; ; {
			n, m := strings.IndexByte(path[i:], '/'), strings.IndexByte(low[j:], '/')
			if n < 0 {
				break
			}
			i, j = i+n+1, j+m+1
			if err := t.enter(path[:i-1], low[:j-1], Dir, path); err != nil {
				return err
			}
		}
		t.lastDir = parent
	}
	if err := t.enter(path, low, kind, path); err != nil {
		return err
	}
	if kind == Symlink {
		if t.links == nil {
			t.links = map[string]string{}
		}
		t.links[path] = link
	}
	return nil
}

func (t *tree) enter(path, low string, kind Kind, entry string) error {
	switch old := t.kinds[path]; {
	case old == Dir && kind == Dir:
		return nil
	case old == Symlink && path != entry:
		return refuse(entry, "path", "it would be written through the symbolic link %s", quote(path))
	case old != 0 && path != entry:
		return refuse(entry, "path", "it lies below %s, which is a %s", quote(path), old)
	case old != 0:
		return refuse(entry, "path", "the package holds this name twice, as %s and as %s", old, kind)
	}
	if len(t.kinds) >= t.lim.MaxEntries {
		return refuse("", "", "more than %d entries", t.lim.MaxEntries)
	}
	t.kinds[path] = kind
	if first, ok := t.folded[low]; ok && t.clash == nil {
		t.clash = &Error{Member: entry, Field: "path", Msg: "it differs only by case from " + quote(first)}
		if low == "info" || strings.HasPrefix(low, "info/") {
			return t.clash
		}
	} else if !ok {
		t.folded[low] = path
	}
	return nil
}

func parentOf(path string) string {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)]
}

// finish checks what only the whole package can tell.
func (t *tree) finish(subdir string) error {
	if t.clash != nil {
		tolerant := strings.HasPrefix(subdir, "linux-") || strings.HasPrefix(subdir, "freebsd-")
		if t.lim.Case == CaseRefuse || t.lim.Case == CaseBySubdir && !tolerant {
			return t.clash
		}
	}
	if t.lim.Links == LinksVerbatim {
		return nil
	}
	steps := 0
	for path, link := range t.links {
		if reason := t.resolve(parentOf(path), link, &steps); reason != "" {
			return refuse(path, "link", "its target %s %s", quote(link), reason)
		}
	}
	return nil
}

// resolve follows a link as the kernel would, in the package's own tree, and
// says why it leaves it. A target that does not exist is walked as written.
func (t *tree) resolve(dir, link string, steps *int) string {
	at := splitPath(dir)
	todo := splitPath(link)
	for hops := 0; len(todo) > 0; {
		if *steps++; *steps > maxResolveSteps {
			return "is part of a knot of links that takes too long to follow"
		}
		c := todo[0]
		todo = todo[1:]
		switch c {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return "leaves the package"
			}
			at = at[:len(at)-1]
			continue
		}
		at = append(at[:len(at):len(at)], c)
		next, ok := t.links[strings.Join(at, "/")]
		if !ok {
			continue
		}
		if hops++; hops > maxLinkHops {
			return "" // a loop leads nowhere, and so not outside
		}
		if next[0] == '/' {
			return "leads through an absolute link"
		}
		at = at[:len(at)-1]
		more := splitPath(next)
		*steps += len(more) + len(todo) // what the next line copies
		todo = append(more, todo...)
	}
	return ""
}

func splitPath(p string) []string {
	if p == "" {
		return nil
	}
	return strings.Split(p, "/")
}
