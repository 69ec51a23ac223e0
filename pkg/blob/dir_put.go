package blob

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/guard"
)

// recent is how young a blob must be for its directory to be flushed when it is put again: another process may
// have renamed it into place and not have flushed yet. Far longer than any put takes between the two.
const recent = time.Hour

// staged is a body that was read and verified. Small ones are still in memory, in which case temp is empty.
type staged struct {
	info Info
	data []byte // valid until the intake's buffer is given back
	temp string // name of the temporary file
	file *os.File
}

// stage reads the body. On error nothing is left behind. The temporary file, if any, is open and not yet flushed.
func (d *Dir) stage(ctx context.Context, r io.Reader, o PutOptions, buf []byte) (_ staged, err error) {
	in := NewIntake(o)
	defer in.Release()
	n, err := in.Read(ctx, r, buf)
	if err == io.EOF {
		info, err := in.Finish()
		return staged{info: info, data: buf[:n]}, err
	}
	if err != nil {
		return staged{}, err
	}
	f, temp, err := d.newTemp()
	if err != nil {
		return staged{}, diskError("put blob", err)
	}
	s := staged{temp: temp, file: f}
	defer func() {
		if err != nil {
			d.drop(s)
		}
	}()
	for done := false; ; {
		if err := writeAll(f, buf[:n]); err != nil {
			return s, diskError("put blob", err)
		}
		if done {
			break
		}
		if n, err = in.Read(ctx, r, buf); err == io.EOF {
			done = true
		} else if err != nil {
			return s, err
		}
	}
	s.info, err = in.Finish()
	return s, err
}

// writeAll writes to a temporary file. What it could not write whole must not get a blob's name.
func writeAll(f *os.File, data []byte) error {
	_, err := f.Write(data)
	if !guard.DiskFull {
		return nil
	}
	return err
}

// drop removes the temporary file of what will not be stored.
func (d *Dir) drop(s staged) {
	if s.file != nil {
		s.file.Close()
		_ = d.root.Remove(s.temp) // what stays is the janitor's
	}
}

// spill gives a small body its temporary file.
func (d *Dir) spill(s *staged) (err error) {
	if s.file != nil {
		return nil
	}
	if s.file, s.temp, err = d.newTemp(); err != nil {
		return err
	}
	if err = writeAll(s.file, s.data); err != nil {
		d.drop(*s)
		s.file, s.temp = nil, ""
	}
	return err
}

// Put implements Store.
func (d *Dir) Put(ctx context.Context, r io.Reader, o PutOptions) (Info, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	s, err := d.stage(ctx, r, o, *buf)
	if err != nil {
		return Info{}, err
	}
	if !o.Replace {
		present, young := d.present(s.info)
		if present {
			d.drop(s)
			if young {
				err = d.settle(s.info.Digest)
			}
			return s.info, diskError("put blob", err)
		}
	}
	if err := d.write(s); err != nil {
		return Info{}, diskError("put blob", err)
	}
	s.info.Created = true
	return s.info, nil
}

// present reports whether the blob is there, and whether it came recently. A file of another size is damaged, and a
// suspect may not outlive a power cut; both count as absent and are written anew.
func (d *Dir) present(info Info) (present, young bool) {
	d.mu.Lock()
	_, suspect := d.suspects[info.Digest]
	d.mu.Unlock()
	if suspect {
		return false, false
	}
	fi, err := d.root.Lstat(blobPath(info.Digest))
	if err != nil || !fi.Mode().IsRegular() || fi.Size() != info.Size {
		return false, false
	}
	return true, d.durable && d.now().Sub(fi.ModTime()) < recent
}

// write makes one staged body durable and visible. A small body is written a second time if the disk did not
// take the first; of a large one the bytes are gone, and the caller has to put it again.
func (d *Dir) write(s staged) error {
	small := s.file == nil
	err := d.flush(&s)
	if err != nil && small {
		s.file, s.temp = nil, ""
		err = d.flush(&s)
	}
	if err != nil {
		return err
	}
	if err := d.root.Rename(s.temp, blobPath(s.info.Digest)); err != nil {
		_ = d.root.Remove(s.temp)
		return err
	}
	return d.settle(s.info.Digest)
}

// flush writes the temporary file where there is none, flushes and closes it. On error it is gone.
func (d *Dir) flush(s *staged) error {
	if err := d.spill(s); err != nil {
		return err
	}
	var err error
	if d.durable {
		err = d.flushData(s.file)
	}
	if cerr := s.file.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = d.root.Remove(s.temp)
	}
	return err
}

// settle makes the names of blobs durable. Where that fails they become suspects.
func (d *Dir) settle(digests ...Digest) error {
	if !d.durable {
		return nil
	}
	synced := map[string]bool{}
	var err error
	for _, dg := range digests {
		if dir := fanPath(dg); err == nil && !synced[dir] {
			err = d.syncDir(dir)
			synced[dir] = true
		}
	}
	d.judge(err, digests...)
	return err
}

// judge makes the blobs suspects after a failed flush of their names, and clears them after a good one.
func (d *Dir) judge(err error, digests ...Digest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, dg := range digests {
		if err != nil {
			d.suspects[dg] = struct{}{}
		} else {
			delete(d.suspects, dg)
		}
	}
}

func (d *Dir) syncDir(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return d.flushDir(f)
}
