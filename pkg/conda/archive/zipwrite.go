package archive

import (
	"hash/crc32"
	"io"
)

// zipWriter writes the ZIP of a .conda: stored members whose size and checksum
// are known beforehand, no data descriptors, one fixed date. zip64 fields
// appear only where a size or offset needs them.
type zipWriter struct {
	w       io.Writer
	at      int64
	central []byte
	count   int
}

const zipDate = 33 // 1980-01-01, the earliest the format can say

func (z *zipWriter) write(b []byte) error {
	n, err := z.w.Write(b)
	z.at += int64(n)
	return err
}

func (z *zipWriter) member(name string, size int64, crc uint32, content io.Reader) error {
	offset := z.at
	version := uint16(20)
	small, extra := uint32(size), []byte(nil)
	if size >= max32 {
		version, small = 45, max32
		extra = le.AppendUint16(extra, zip64Kind)
		extra = le.AppendUint16(extra, 16)
		extra = le.AppendUint64(extra, uint64(size))
		extra = le.AppendUint64(extra, uint64(size))
	}
	common := func(b []byte) []byte {
		b = le.AppendUint16(b, version)
		b = le.AppendUint16(b, 0) // flags
		b = le.AppendUint16(b, 0) // stored
		b = le.AppendUint16(b, 0)
		b = le.AppendUint16(b, zipDate)
		b = le.AppendUint32(b, crc)
		b = le.AppendUint32(b, small)
		b = le.AppendUint32(b, small)
		return le.AppendUint16(b, uint16(len(name)))
	}
	local := common(le.AppendUint32(nil, sigLocal))
	local = le.AppendUint16(local, uint16(len(extra)))
	local = append(append(local, name...), extra...)
	if err := z.write(local); err != nil {
		return err
	}
	n, err := io.Copy(z.w, content)
	z.at += n
	if err != nil {
		return err
	}
	if n != size {
		return refuse(name, "", "wrote %d bytes instead of %d", n, size)
	}

	low := uint32(min(offset, max32))
	if offset >= max32 {
		if extra == nil {
			version = 45
			extra = le.AppendUint16(extra, zip64Kind)
			extra = le.AppendUint16(extra, 0)
		}
		extra = le.AppendUint64(extra, uint64(offset))
		le.PutUint16(extra[2:], uint16(len(extra)-4))
	}
	c := le.AppendUint32(nil, sigCentral)
	c = le.AppendUint16(c, 3<<8|version) // made on Unix
	c = common(c)
	c = le.AppendUint16(c, uint16(len(extra)))
	c = append(c, make([]byte, 6)...)    // comment, disk, internal attributes
	c = le.AppendUint32(c, 0o100644<<16) // a regular file, rw-r--r--
	c = le.AppendUint32(c, low)
	c = append(append(c, name...), extra...)
	z.central = append(z.central, c...)
	z.count++
	return nil
}

func (z *zipWriter) bytes(name string, data []byte) error {
	return z.member(name, int64(len(data)), crc32.ChecksumIEEE(data), bytesReader(data))
}

func (z *zipWriter) close() error {
	start := z.at
	if err := z.write(z.central); err != nil {
		return err
	}
	length := z.at - start
	if start >= max32 {
		at := z.at
		e := le.AppendUint32(nil, sigEnd64)
		e = le.AppendUint64(e, lenEnd64-12)
		e = le.AppendUint16(e, 3<<8|45)
		e = le.AppendUint16(e, 45)
		e = le.AppendUint64(e, 0) // disks
		e = le.AppendUint64(e, uint64(z.count))
		e = le.AppendUint64(e, uint64(z.count))
		e = le.AppendUint64(e, uint64(length))
		e = le.AppendUint64(e, uint64(start))
		e = le.AppendUint32(e, sigLocate64)
		e = le.AppendUint32(e, 0)
		e = le.AppendUint64(e, uint64(at))
		e = le.AppendUint32(e, 1)
		if err := z.write(e); err != nil {
			return err
		}
	}
	e := le.AppendUint32(nil, sigEnd)
	e = le.AppendUint32(e, 0) // disks
	e = le.AppendUint16(e, uint16(z.count))
	e = le.AppendUint16(e, uint16(z.count))
	e = le.AppendUint32(e, uint32(length))
	e = le.AppendUint32(e, uint32(min(start, max32)))
	e = le.AppendUint16(e, 0)
	return z.write(e)
}
