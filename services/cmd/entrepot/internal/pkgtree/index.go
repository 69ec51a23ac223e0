package pkgtree

import (
	"bytes"
	"context"
	"io"
	"path"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Index is what a subdir's repodata says.
type Index struct {
	// Records are the records by file name, as they are spelled there.
	Records map[string][]byte
	// Removed are the files that were taken out of the index by a patch.
	Removed map[string]bool
	// Problems are records that cannot be read; they are not in Records.
	Problems []string
}

// indexFiles are tried in order. The plain file is what everything that writes an index writes.
var indexFiles = []string{"repodata.json", "repodata.json.zst", "repodata.json.bz2"}

// ReadIndex reads the index of the subdir that lies at dir. It returns nil if there is none. Records of formats that are
// no package files are left out.
func ReadIndex(ctx context.Context, t Tree, dir string) (*Index, error) {
	for _, name := range indexFiles {
		r, err := t.Open(ctx, path.Join(dir, name))
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		ix, err := readIndex(r, name)
		if cerr := r.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, fault.New(fault.Invalid, "%s/%s cannot be read: %w", dir, name, err)
		}
		return ix, nil
	}
	return nil, nil
}

func readIndex(r io.Reader, name string) (*Index, error) {
	plain, err := repodata.NewDecoder(r, repodata.EncodingOf(name), repodata.DecodeLimits{})
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	ix := &Index{Records: map[string][]byte{}, Removed: map[string]bool{}}
	_, err = repodata.Read(plain, repodata.ReadOptions{
		Record: func(b repodata.Bucket, key string, raw []byte) error {
			if b == repodata.TarBz2 || b == repodata.Conda {
				ix.Records[key] = bytes.Clone(raw)
			}
			return nil
		},
		Removed: func(filename string) error {
			ix.Removed[filename] = true
			return nil
		},
		Problem: func(e *repodata.Error) error {
			ix.Problems = append(ix.Problems, e.Error())
			return nil
		},
	})
	return ix, err
}
