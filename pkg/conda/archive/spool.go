package archive

import (
	"bytes"
	"hash/crc32"
	"io"
	"os"
)

func bytesReader(b []byte) io.Reader { return bytes.NewReader(b) }

// spool holds a compressed member until its size and checksum are known: in
// memory at first, in an unlinked temporary file when it grows.
type spool struct {
	dir  string // for temporary files; "" is the system's
	mem  bytes.Buffer
	file *os.File
	size int64
	crc  uint32
}

const spoolInMemory = 8 << 20

// Write implements io.Writer.
func (s *spool) Write(p []byte) (int, error) {
	if s.file == nil && s.mem.Len()+len(p) > spoolInMemory {
		f, err := os.CreateTemp(s.dir, ".conda-*.tmp")
		if err != nil {
			return 0, err
		}
		s.file = f
		if _, err := s.mem.WriteTo(f); err != nil {
			return 0, err
		}
		s.mem = bytes.Buffer{}
	}
	s.size += int64(len(p))
	s.crc = crc32.Update(s.crc, crc32.IEEETable, p)
	if s.file != nil {
		return s.file.Write(p)
	}
	return s.mem.Write(p)
}

// content returns what was written, from its beginning.
func (s *spool) content() (io.Reader, error) {
	if s.file == nil {
		return &s.mem, nil
	}
	_, err := s.file.Seek(0, io.SeekStart)
	return s.file, err
}

// close removes the temporary file, if there is one.
func (s *spool) close() {
	if s.file != nil {
		name := s.file.Name()
		_ = s.file.Close()
		_ = os.Remove(name)
	}
}
