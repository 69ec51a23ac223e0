package archive

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"time"
)

// Entry is one file, link or directory of a package.
type Entry struct {
	Path string // clean, relative, with forward slashes
	Kind Kind
	// Mode holds the permission bits as the archive has them; no other bits.
	Mode fs.FileMode
	// Size is the number of bytes of a File, else 0.
	Size int64
	// Link is the text of a Symlink, or the clean path of the earlier File
	// that a HardLink names.
	Link    string
	ModTime time.Time
}

// section is which part of a package a tar holds.
type section uint8

const (
	both section = iota // a .tar.bz2
	infoOnly
	pkgOnly
)

// errStop ends a walk early and without an error.
var errStop = errors.New("stop")

// scanner reads the tars of one package.
type scanner struct {
	ctx     context.Context
	lim     Limits
	tree    *tree
	visit   func(*Entry, io.Reader) error
	entries int
	bytes   int64 // decompressed, over all tars
}

// tar walks one tar. member names it in messages, stream is decompressed, and
// most is how much may come out of it.
func (s *scanner) tar(member string, stream io.Reader, part section, most int64) error {
	in := &budgetReader{s: s, member: member, r: stream, left: most}
	tr := tar.NewReader(in)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return drain(in, member)
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return broken(member, "cannot read the tar", err)
		}
		e, err := s.entry(h, part)
		if err != nil {
			return err
		}
		if e == nil {
			continue
		}
		s.entries++
		if err := s.visit(e, tr); err != nil {
			return err
		}
	}
}

// drain reads what is behind the tar's end marker, which must be zeros: some
// readers go on there. It also makes the decompressor check its checksums.
func drain(r io.Reader, member string) error {
	buf := make([]byte, 8<<10)
	for {
		n, err := r.Read(buf)
		for _, b := range buf[:n] {
			if b != 0 {
				return refuse(member, "", "there is data behind the end of the tar")
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return broken(member, "cannot decompress", err)
		}
	}
}

// largestOctal is what the size field of a plain tar header can say.
const largestOctal = 1<<33 - 1

// entry checks one header. It returns nil for the root directory itself.
func (s *scanner) entry(h *tar.Header, part section) (*Entry, error) {
	path, reason := cleanPath(h.Name)
	if reason != "" {
		return nil, refuse(h.Name, "path", "%s", reason)
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return nil, refuse(path, "type", "sparse files are not part of the format")
		}
	}
	if _, ok := h.PAXRecords["size"]; ok && h.Size <= largestOctal {
		// Readers that ignore it would see the file's content as headers.
		return nil, refuse(path, "size", "it is given twice, in the header and in a PAX record")
	}
	e := &Entry{Path: path, Mode: fs.FileMode(h.Mode) & 0o777, ModTime: h.ModTime}
	switch h.Typeflag {
	case tar.TypeReg:
		e.Kind, e.Size = File, h.Size
	case tar.TypeDir:
		e.Kind = Dir
	case tar.TypeSymlink:
		e.Kind, e.Link = Symlink, h.Linkname
	case tar.TypeLink:
		e.Kind, e.Link = HardLink, h.Linkname
	default:
		return nil, refuse(path, "type", "a %s is not allowed in a package", typeName(h.Typeflag))
	}
	if path == "." {
		if e.Kind != Dir {
			return nil, refuse(h.Name, "path", "the root can only be a directory")
		}
		return nil, nil
	}
	if e.Kind != Dir && h.Mode&0o6000 != 0 {
		return nil, refuse(path, "mode", "setuid and setgid bits are not allowed")
	}
	if err := checkPlace(path, e.Kind, part); err != nil {
		return nil, err
	}
	if err := s.checkLink(e); err != nil {
		return nil, err
	}
	return e, s.tree.add(path, e.Kind, e.Link)
}

// checkPlace keeps info/ and the files apart and protects what belongs to the
// installer.
func checkPlace(path string, kind Kind, part section) error {
	first, _, nested := strings.Cut(path, "/")
	low := fold(first)
	inInfo := low == "info"
	switch {
	case inInfo && first != "info":
		return refuse(path, "path", "the directory is called info")
	case inInfo && !nested && kind != Dir:
		return refuse(path, "path", "info must be a directory")
	case inInfo && part == pkgOnly:
		return refuse(path, "path", "info/ belongs into the info member")
	case !inInfo && part == infoOnly:
		return refuse(path, "path", "the info member holds only info/")
	case low == "conda-meta":
		return refuse(path, "path", "conda-meta/ belongs to the environment, not to a package")
	case path == "info/repodata_record.json":
		return refuse(path, "path", "this file is written by the installer and must not be in a package")
	}
	return nil
}

func (s *scanner) checkLink(e *Entry) error {
	switch e.Kind {
	case HardLink:
		target, reason := cleanPath(e.Link)
		if reason != "" {
			return refuse(e.Path, "link", "%s", reason)
		}
		if k := s.tree.kinds[target]; k != File && k != HardLink {
			return refuse(e.Path, "link", "a hard link must name an earlier file of the package, not %s", quote(e.Link))
		}
		if strings.HasPrefix(target, "info/") != strings.HasPrefix(e.Path, "info/") {
			return refuse(e.Path, "link", "a hard link must not lead into or out of info/")
		}
		e.Link = target
	case Symlink:
		switch {
		case e.Link == "" || strings.IndexByte(e.Link, 0) >= 0 || len(e.Link) > maxPath:
			return refuse(e.Path, "link", "its target is empty, too long or contains NUL")
		case s.lim.Links == LinksVerbatim:
		case e.Link[0] == '/' || e.Link[0] == '\\' || len(e.Link) > 1 && e.Link[1] == ':':
			return refuse(e.Path, "link", "its target %s is absolute", quote(e.Link))
		}
	}
	return nil
}

func typeName(flag byte) string {
	switch flag {
	case tar.TypeChar, tar.TypeBlock:
		return "device"
	case tar.TypeFifo:
		return "FIFO"
	case tar.TypeXGlobalHeader:
		return "global header"
	case tar.TypeGNUSparse:
		return "sparse file"
	}
	return "tar entry of type " + quote(string(rune(flag)))
}

// budgetReader stops a bomb, and a walk whose context is done.
type budgetReader struct {
	s      *scanner
	member string
	r      io.Reader
	left   int64
}

func (b *budgetReader) Read(p []byte) (int, error) {
	if err := b.s.ctx.Err(); err != nil {
		return 0, &Error{Msg: "interrupted", Err: context.Cause(b.s.ctx)}
	}
	if int64(len(p)) > b.left {
		p = p[:b.left+1] // one more, to tell the end from too much
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	b.s.bytes += int64(n)
	if b.left < 0 || b.s.bytes > b.s.lim.MaxUnpacked {
		return 0, refuse(b.member, "", "it decompresses to more than the limit allows")
	}
	return n, err
}
