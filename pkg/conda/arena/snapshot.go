package arena

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"runtime"
	"unsafe"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// ErrStale says that a snapshot is not one of the source, of this version, or of this kind of machine, or that it is
// damaged: whatever it is, the answer is to make it anew.
var ErrStale = errors.New("the snapshot cannot be used")

func stale(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrStale, fmt.Sprintf(format, args...))
}

// snapshotVersion changes with the layout of snapshots, and with what is read from the same document.
const snapshotVersion = 1

// Sections of a snapshot, each at a multiple of sectionAlign.
const (
	sectionRecords = iota
	sectionDeps
	sectionOffsets
	sectionSlab
	sectionOrder
	sectionGroups
	sectionMeta
	sections
)

const (
	headerSize   = 256
	sectionAlign = 64
)

var magic = [8]byte{'c', 'o', 'n', 'd', 'a', 'r', 'n', 'a'}

// header is the first part of a snapshot, in the byte order of the machine that made it.
type header struct {
	Magic    [8]byte
	Version  uint32
	Order    uint32   // orderMark as this machine writes it
	Source   [32]byte // digest of what it was made from
	Sections [sections]struct{ Offset, Size uint64 }
	Body     uint32 // CRC-32C of all sections as they stand in the file
	_        uint32
}

const orderMark = 0x01020304

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// meta is what does not lie in slices.
type meta struct {
	Subdir   string         `json:"subdir"`
	Info     *repodata.Info `json:"info"`
	Problems []string       `json:"problems,omitempty"`
}

func bytesOf[T any](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(s[0])))
}

// sliceOf is the section b as a slice; b begins at a multiple of sectionAlign, and so does the file it is mapped from.
func sliceOf[T any](b []byte) []T {
	var zero T
	n := len(b) / int(unsafe.Sizeof(zero))
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

// WriteSnapshot writes the arena for OpenSnapshot. source is the digest of what it was read from, however the caller counts
// that. The arena's slices are written as they are, so this takes as long as the disk does.
func (a *Arena) WriteSnapshot(w io.Writer, source [32]byte) error {
	info, err := json.Marshal(meta{a.Subdir, &a.Info, a.Problems})
	if err != nil {
		return err
	}
	h := header{Magic: magic, Version: snapshotVersion, Order: orderMark, Source: source}
	parts := [sections][]byte{bytesOf(a.recs), bytesOf(a.deps), bytesOf(a.offs), a.slab, bytesOf(a.order), bytesOf(a.groups), info}
	at, sum := uint64(headerSize), uint32(0)
	var gap [sectionAlign]byte
	for i, part := range parts {
		h.Sections[i].Offset, h.Sections[i].Size = at, uint64(len(part))
		at += uint64(len(part))
		pad := -at % sectionAlign
		at += pad
		sum = crc32.Update(crc32.Update(sum, castagnoli, part), castagnoli, gap[:pad])
	}
	h.Body = sum
	var head bytes.Buffer
	if err := binary.Write(&head, binary.NativeEndian, h); err != nil {
		return err
	}
	head.Write(binary.NativeEndian.AppendUint32(nil, crc32.Checksum(head.Bytes(), castagnoli)))
	if _, err := w.Write(append(head.Bytes(), make([]byte, headerSize-head.Len())...)); err != nil {
		return err
	}
	for i, part := range parts {
		if _, err := w.Write(part); err != nil {
			return err
		}
		pad := -(h.Sections[i].Offset + h.Sections[i].Size) % sectionAlign
		if _, err := w.Write(gap[:pad]); err != nil {
			return err
		}
	}
	runtime.KeepAlive(a)
	return nil
}

// OpenSnapshot maps a snapshot that was made from the source. The header and the file's size are checked; for the rest see
// Verify. An error is ErrStale, fs.ErrNotExist, or the system's. The file may be replaced or removed while the arena lives,
// but not be written to.
func OpenSnapshot(file *os.File, source [32]byte) (*Arena, error) {
	var raw [headerSize]byte
	if _, err := file.ReadAt(raw[:], 0); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, stale("it is cut off")
		}
		return nil, err
	}
	var h header
	n, err := binary.Decode(raw[:], binary.NativeEndian, &h)
	if err != nil {
		return nil, err
	}
	switch {
	case h.Magic != magic:
		return nil, stale("it is none")
	case h.Order != orderMark || h.Version != snapshotVersion:
		return nil, stale("it is of another version")
	case crc32.Checksum(raw[:n], castagnoli) != binary.NativeEndian.Uint32(raw[n:]):
		return nil, stale("the checksum of its header differs")
	case h.Source != source:
		return nil, stale("it is of another index")
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	at := uint64(headerSize)
	for _, s := range h.Sections {
		if s.Offset != at || s.Size > 1<<40 {
			return nil, stale("its parts do not follow each other")
		}
		at += s.Size
		at += -at % sectionAlign
	}
	if uint64(info.Size()) != at || int64(int(at)) != int64(at) {
		return nil, stale("it has %d bytes instead of %d", info.Size(), at)
	}
	m, err := mapFile(file, int(at))
	if err != nil {
		return nil, err
	}
	m.sum = h.Body
	part := func(i int) []byte {
		s := h.Sections[i]
		return m.data[s.Offset : s.Offset+s.Size : s.Offset+s.Size]
	}
	var about meta
	if err := json.Unmarshal(part(sectionMeta), &about); err != nil || about.Info == nil {
		m.close()
		return nil, stale("what it says of itself cannot be read")
	}
	a := &Arena{
		Subdir: about.Subdir, Info: *about.Info, Problems: about.Problems, mapped: m,
		recs: sliceOf[Rec](part(sectionRecords)), deps: sliceOf[uint32](part(sectionDeps)), offs: sliceOf[uint32](part(sectionOffsets)),
		slab: part(sectionSlab), order: sliceOf[uint32](part(sectionOrder)), groups: sliceOf[group](part(sectionGroups)),
	}
	runtime.AddCleanup(a, func(m *mapping) { m.close() }, m)
	return a, nil
}

// Verify reports whether the body of a snapshot is what was written; nil for an arena that is none. It reads the file once,
// and not by way of the mapping, so that no more of it stays in memory than is used later.
func (a *Arena) Verify(file *os.File) error {
	if a.mapped == nil {
		return nil
	}
	sum, buf := uint32(0), make([]byte, 1<<20)
	r := io.NewSectionReader(file, headerSize, int64(len(a.mapped.data)-headerSize))
	for {
		n, err := r.Read(buf)
		sum = crc32.Update(sum, castagnoli, buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if sum != a.mapped.sum {
		return stale("the checksum of its body differs")
	}
	return nil
}

// mapping is a file in memory.
type mapping struct {
	data []byte
	sum  uint32
	free func([]byte) error
}

func (m *mapping) close() {
	if m.free != nil {
		_ = m.free(m.data) // it fails only for what is not mapped
	}
	m.data, m.free = nil, nil
}
