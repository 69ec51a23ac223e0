package segment

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
)

// Time is that of every entry: the earliest that a ZIP can hold, and not 0, which some tools take for "none".
var Time = time.Unix(315532800, 0).UTC()

// Content is an entry as it goes into an archive.
type Content struct {
	Path string      // relative to the environment
	Mode fs.FileMode // permission bits, and fs.ModeDir or fs.ModeSymlink
	Link string      // text of a symbolic link
	Size int64
	Time time.Time
	// Reader has the bytes of a file. It is valid until the function that was given the Content returns.
	Reader io.Reader
	// Changed is set where the content is not that of the package.
	Changed bool
}

// spool is the size above which a text that is rewritten goes through a file instead of memory, in bytes.
const spool = 32 << 20

// Each calls fn for entries of the part, in their order. It fails with a *ChangedError, after fn has had the content, if a
// file is not what the package lists.
func (p *Part) Each(entries []link.Entry, fn func(*link.Entry, *Content) error) error {
	times := p.bytecode(entries)
	for i := range entries {
		e := &entries[i]
		if err := p.content(e, times, fn); err != nil {
			return p.failed(e, err)
		}
	}
	return nil
}

// failed says where, unless the error does.
func (p *Part) failed(e *link.Entry, err error) error {
	if errors.As(err, new(*ChangedError)) {
		return err
	}
	return fmt.Errorf("%s: %s: %w", p.pkg, e.Path, err)
}

func (p *Part) content(e *link.Entry, times map[string]time.Time, fn func(*link.Entry, *Content) error) error {
	c := &Content{Path: e.Path, Time: Time}
	if e.Generated() {
		return p.generated(e, c, fn)
	}
	if e.Type == link.Directory {
		c.Mode = fs.ModeDir | 0o755
		return fn(e, c)
	}
	info, err := p.pkg.Files.Lstat(e.Source)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 && (!e.Rewritten() || p.env.Originals) {
		c.Mode = fs.ModeSymlink | 0o777
		if c.Link, err = p.pkg.Files.ReadLink(e.Source); err != nil {
			return err
		}
		return fn(e, c)
	}
	if e.Type == link.SoftLink && !e.Rewritten() {
		return fmt.Errorf("the package lists a symbolic link, but has none")
	}
	src, st, finish, err := p.source(e)
	if err != nil {
		return err
	}
	defer src.Close()
	c.Mode, c.Size = st.Mode().Perm(), st.Size()
	if t, ok := times[e.Source]; ok && !e.Rewritten() {
		c.Time = t
	}
	switch {
	case !e.Rewritten():
		c.Reader = src
		err = fn(e, c)
	case !p.env.Originals:
		err = p.rewritten(e, c, src, fn)
	default:
		c.Reader = src
		if mayBePortable(e, c.Size) {
			data, err := io.ReadAll(src)
			if err != nil {
				return err
			}
			data, c.Changed = portable(data, e.Placeholder)
			c.Reader, c.Size = bytes.NewReader(data), int64(len(data))
		}
		err = fn(e, c)
	}
	if err != nil {
		return err
	}
	return finish()
}

// mayBePortable is true of what is a script by its place, and short enough to be looked at as a whole.
func mayBePortable(e *link.Entry, size int64) bool {
	return e.FileMode == archive.ModeText && strings.HasPrefix(e.Path, "bin") && size <= spool
}

// rewritten gives fn the file with its prefix replaced.
func (p *Part) rewritten(e *link.Entry, c *Content, src io.Reader, fn func(*link.Entry, *Content) error) error {
	c.Changed = true
	if e.FileMode == archive.ModeBinary && c.Size > spool {
		// The length does not change, so it can go through as it is made.
		r, w := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _, err := link.Rewrite(w, src, e, &p.env.target)
			w.CloseWithError(err)
		}()
		c.Reader = r
		err := fn(e, c)
		r.CloseWithError(fs.ErrClosed)
		<-done
		return err
	}
	if c.Size <= spool {
		var buf bytes.Buffer
		if _, _, err := link.Rewrite(&buf, src, e, &p.env.target); err != nil {
			return err
		}
		c.Reader, c.Size = &buf, int64(buf.Len())
		return fn(e, c)
	}
	f, err := os.CreateTemp("", "entrepot-segment-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, c.Size, err = link.Rewrite(f, src, e, &p.env.target); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	c.Reader = f
	return fn(e, c)
}

// generated gives fn a file that is in no package.
func (p *Part) generated(e *link.Entry, c *Content, fn func(*link.Entry, *Content) error) error {
	data := e.Data
	if p.env.Originals {
		// The interpreter is found by way of PATH, wherever the environment will lie.
		if line, rest, ok := bytes.Cut(data, []byte("\n")); ok && bytes.HasPrefix(line, []byte("#!/")) {
			data = append([]byte("#!/usr/bin/env "+path.Base(string(line))+"\n"), rest...)
		}
	}
	c.Mode, c.Size, c.Reader, c.Changed = e.Mode, int64(len(data)), bytes.NewReader(data), true
	return fn(e, c)
}

// firstLine is a shebang: the line, its program, its arguments.
var firstLine = regexp.MustCompile(`^(#!(?:[ ]*)(/(?:\\ |[^ \n\r\t])*)([^\n]*))(?:\n|$)`)

// portable makes a script find its interpreter by PATH. It reports false if that is not all there is to replace.
func portable(data []byte, placeholder string) ([]byte, bool) {
	old := []byte(placeholder)
	m := firstLine.FindSubmatch(data)
	if m == nil || bytes.Count(data, old) > 1 || !bytes.HasPrefix(m[2], old) {
		return data, false
	}
	line := "#!/usr/bin/env " + string(m[2][bytes.LastIndexByte(m[2], '/')+1:]) + string(m[3])
	return append([]byte(line), data[len(m[1]):]...), true
}

// Portable reports whether a script of an environment with originals needs no replacing any more, and so is not to be
// listed for it.
func (p *Part) Portable(e *link.Entry) (bool, error) {
	src, info, finish, err := p.source(e)
	if err != nil {
		return false, p.failed(e, err)
	}
	defer src.Close()
	if !mayBePortable(e, info.Size()) {
		return false, nil
	}
	data, err := io.ReadAll(src)
	if err == nil {
		err = finish()
	}
	if err != nil {
		return false, p.failed(e, err)
	}
	_, ok := portable(data, e.Placeholder)
	return ok, nil
}

// bytecode finds the times that bytecode in the package expects of its sources (PEP 552: of files without flags).
func (p *Part) bytecode(entries []link.Entry) map[string]time.Time {
	times := map[string]time.Time{}
	for i := range entries {
		e := &entries[i]
		if !strings.HasSuffix(e.Source, ".pyc") || e.Type != link.HardLink {
			continue
		}
		dir, base := path.Split(e.Source)
		name, _, ok := strings.Cut(base, ".cpython-")
		if !ok || path.Base(dir) != "__pycache__" || strings.Contains(base, ".opt-") {
			continue
		}
		f, err := p.pkg.Files.Open(e.Source)
		if err != nil {
			continue // whoever reads it next will say so
		}
		var head [16]byte
		_, err = io.ReadFull(f, head[:])
		_ = f.Close()
		if err == nil && binary.LittleEndian.Uint32(head[4:]) == 0 {
			source := path.Join(path.Dir(path.Clean(dir)), name+".py")
			times[source] = time.Unix(int64(binary.LittleEndian.Uint32(head[8:])), 0).UTC()
		}
	}
	return times
}

// hexSum is a digest as it is written.
func hexSum(b []byte) string { return hex.EncodeToString(b) }

func sumOf(s string) string {
	h := sha256.Sum256([]byte(s))
	return hexSum(h[:])
}

// Symlink reports whether an entry is a symbolic link, whatever the package lists it as.
func (p *Part) Symlink(e *link.Entry) (bool, error) {
	info, err := p.pkg.Files.Lstat(e.Source)
	if err != nil {
		return false, fmt.Errorf("%s: %w", p.pkg, err)
	}
	return info.Mode()&fs.ModeSymlink != 0, nil
}

// ReadLink returns the text of a symbolic link.
func (p *Part) ReadLink(e *link.Entry) (string, error) { return p.pkg.Files.ReadLink(e.Source) }

// Measure reads entries and returns what conda-meta has to know of them; see Segment.Files.
func (p *Part) Measure(ctx context.Context, entries []link.Entry) (map[string]File, error) {
	return newTarWriter(&meter{w: io.Discard, h: fnv.New32(), ctx: ctx}, p.env, DirsListed).part(p, entries)
}
