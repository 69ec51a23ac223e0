package solve

import (
	"io"
	"slices"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// ReadRepo reads the repodata of one subdir. Records that are broken, removed or listed twice are passed to problem,
// if it is not nil, and left out.
func ReadRepo(channel, subdir string, r io.Reader, problem func(error)) (Repo, error) {
	repo := Repo{Channel: channel, Subdir: subdir}
	report := func(err error) {
		if problem != nil {
			problem(err)
		}
	}
	removed := map[string]bool{}
	_, err := repodata.Read(r, repodata.ReadOptions{
		Record: func(b repodata.Bucket, key string, raw []byte) error {
			rec, err := repodata.ParseRecord(slices.Clone(raw)) // raw is the reader's
			if err != nil {
				report(err)
				return nil
			}
			if rec.Subdir == "" {
				rec.Subdir = subdir
			}
			repo.Packages = append(repo.Packages, &Package{Record: rec, Channel: channel, FileName: b.Filename(key)})
			return nil
		},
		Removed: func(name string) error {
			removed[name] = true
			return nil
		},
		Problem: func(e *repodata.Error) error {
			report(e)
			return nil
		},
	})
	if err != nil {
		return Repo{}, err
	}
	seen := make(map[string]bool, len(repo.Packages))
	repo.Packages = slices.DeleteFunc(repo.Packages, func(p *Package) bool {
		drop := removed[p.FileName] || seen[p.FileName]
		seen[p.FileName] = true
		return drop
	})
	return repo, nil
}
