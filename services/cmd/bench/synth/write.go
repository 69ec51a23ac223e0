package synth

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// JSON appends a record as repodata spells it.
func (r *Record) JSON(dst []byte) []byte {
	text := func(key, value string) {
		dst = append(dst, `,"`...)
		dst = append(append(dst, key...), `":`...)
		dst = quote(dst, value)
	}
	list := func(key string, values []string) {
		dst = append(dst, `,"`...)
		dst = append(append(dst, key...), `":[`...)
		for i, v := range values {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = quote(dst, v)
		}
		dst = append(dst, ']')
	}
	number := func(key string, n uint64) {
		dst = append(dst, `,"`...)
		dst = append(append(dst, key...), `":`...)
		dst = strconv.AppendUint(dst, n, 10)
	}
	dst = quote(append(dst, `{"build":`...), r.Build)
	number("build_number", r.BuildNumber)
	if len(r.Constrains) > 0 {
		list("constrains", r.Constrains)
	}
	list("depends", r.Depends)
	if r.License != "" {
		text("license", r.License)
	}
	if r.MD5 != "" {
		text("md5", r.MD5)
	}
	text("name", r.Name)
	if r.NoArch != "" {
		text("noarch", r.NoArch)
	}
	if r.SHA256 != "" {
		text("sha256", r.SHA256)
	}
	if r.Size > 0 {
		number("size", r.Size)
	}
	text("subdir", r.Subdir)
	if r.Timestamp > 0 {
		number("timestamp", uint64(r.Timestamp))
	}
	if len(r.Features) > 0 {
		list("track_features", r.Features)
	}
	text("version", r.Version)
	return append(dst, '}')
}

func quote(dst []byte, s string) []byte {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == '"' || s[i] == '\\' || s[i] >= 0x7f {
			out, err := json.Marshal(s)
			if err != nil {
				panic(err) // a string always has JSON
			}
			return append(dst, out...)
		}
	}
	return append(append(append(dst, '"'), s...), '"')
}

// Files says which index files Write makes.
type Files struct{ JSON, Zstd, Shards bool }

// Write makes the index files of a channel in a directory, for records sorted as Channel does.
func Write(dir string, records []Record, files Files) error {
	for _, subdir := range []string{"linux-64", "noarch"} {
		var own []Record
		for _, r := range records {
			if r.Subdir == subdir {
				own = append(own, r)
			}
		}
		at := filepath.Join(dir, subdir)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if files.JSON {
			if err := writeFile(filepath.Join(at, "repodata.json"), func(w io.Writer) error { return document(w, subdir, own) }); err != nil {
				return err
			}
		}
		if files.Zstd {
			err := writeFile(filepath.Join(at, "repodata.json.zst"), func(w io.Writer) error {
				z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
				if err != nil {
					return err
				}
				if err := document(z, subdir, own); err != nil {
					return err
				}
				return z.Close()
			})
			if err != nil {
				return err
			}
		}
		if files.Shards {
			if err := shards(at, subdir, own); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err = write(w); err == nil {
		err = w.Flush()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func document(w io.Writer, subdir string, records []Record) error {
	buf := fmt.Appendf(nil, `{"info":{"subdir":%q}`, subdir)
	for _, b := range []repodata.Bucket{repodata.TarBz2, repodata.Conda} {
		buf = fmt.Appendf(buf, `,%q:{`, string(b))
		first := true
		for i := range records {
			if filepath.Ext(records[i].FileName) == ".conda" != (b == repodata.Conda) {
				continue
			}
			if !first {
				buf = append(buf, ',')
			}
			first = false
			buf = records[i].JSON(append(quote(buf, records[i].FileName), ':'))
			if len(buf) > 1<<18 {
				if _, err := w.Write(buf); err != nil {
					return err
				}
				buf = buf[:0]
			}
		}
		buf = append(buf, '}')
	}
	_, err := w.Write(append(buf, `,"repodata_version":1}`...))
	return err
}

func shards(dir, subdir string, records []Record) error {
	if err := os.MkdirAll(filepath.Join(dir, "shards"), 0o755); err != nil {
		return err
	}
	byName := map[string]*repodata.Shard{}
	for i := range records {
		r := &records[i]
		if byName[r.Name] == nil {
			byName[r.Name] = &repodata.Shard{}
		}
		b := repodata.TarBz2
		if filepath.Ext(r.FileName) == ".conda" {
			b = repodata.Conda
		}
		byName[r.Name].Records = append(byName[r.Name].Records, repodata.ShardRecord{Bucket: b, Key: r.FileName, Raw: r.JSON(nil)})
	}
	ix := repodata.ShardIndex{Subdir: subdir, ShardsBaseURL: "./shards/", Shards: make(map[string][32]byte, len(byName))}
	for name, shard := range byName {
		data, digest, err := repodata.BuildShard(*shard)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		ix.Shards[name] = digest
		if err := os.WriteFile(filepath.Join(dir, "shards", repodata.ShardPath(digest)), data, 0o644); err != nil {
			return err
		}
	}
	data, err := repodata.BuildIndex(ix)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "repodata_shards.msgpack.zst"), data, 0o644)
}
