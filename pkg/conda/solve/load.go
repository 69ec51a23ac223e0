package solve

import (
	"io"

	"github.com/entrepot-dev/entrepot/pkg/conda/arena"
)

// ReadRepo reads the repodata of one subdir. Records that are broken, removed or listed twice are passed to problem,
// if it is not nil, and left out.
func ReadRepo(channel, subdir string, r io.Reader, problem func(error)) (Repo, error) {
	a, err := arena.Read(r, arena.Options{Subdir: subdir, Problem: problem})
	if err != nil {
		return Repo{}, err
	}
	return Repo{Channel: channel, Subdir: subdir, Arena: a}, nil
}
