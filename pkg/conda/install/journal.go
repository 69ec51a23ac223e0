package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
)

// Names within conda-meta. Nothing there begins with a dot but ours, and other programs look at *.json only.
const (
	transactionDir = ".transaction"
	doneDir        = ".transaction-done"
	journalFile    = "journal.json"
	commitFile     = "commit"
	oldDir         = "old"  // what was set aside, by number
	stagedDir      = "meta" // records and history to be
	tempDir        = "new"  // files that are being written
)

// journal is what a transaction is going to do, written before it does anything. Paths are relative to the prefix.
type journal struct {
	Version int `json:"version"`
	// Made says that the prefix did not exist, MadeMeta that conda-meta did not.
	Made     bool `json:"made,omitzero"`
	MadeMeta bool `json:"made_meta,omitzero"`
	// Old are the files to be set aside, each under its number; New those to be made, Dirs the directories.
	Old  []string `json:"old"`
	New  []string `json:"new"`
	Dirs []string `json:"dirs"`
	// Stamps has for each of New how the file will look, by which recovery tells it from one that somebody put there since.
	Stamps []stamp `json:"stamps,omitzero"`
	// Keep are directories that stay even if they are empty.
	Keep []string `json:"keep"`
	// Noarch are directories of removed noarch python packages, which leave __pycache__ behind.
	Noarch []string `json:"noarch,omitzero"`
	// Remove and Write are file names in conda-meta.
	Remove []string `json:"remove"`
	Write  []string `json:"write"`
}

const journalVersion = 1

func (j *journal) bytes() ([]byte, error) { return json.Marshal(j) }

// parseJournal reads a journal and trusts none of its paths: a prefix may come from anywhere.
func parseJournal(data []byte) (*journal, error) {
	j := new(journal)
	if err := json.Unmarshal(data, j); err != nil {
		return nil, jsonError(err)
	}
	if j.Version != journalVersion {
		return nil, fmt.Errorf("it has version %d, and only %d is known", j.Version, journalVersion)
	}
	for _, list := range [][]string{j.Old, j.New, j.Dirs, j.Keep, j.Noarch} {
		for _, p := range list {
			if err := checkPath(p); err != nil {
				return nil, err
			}
		}
	}
	for _, list := range [][]string{j.Remove, j.Write} {
		for _, name := range list {
			if !strings.HasSuffix(name, ".json") || name[0] == '.' || strings.ContainsAny(name, "/\\\x00") {
				return nil, fmt.Errorf("%q is no record", name)
			}
		}
	}
	return j, nil
}

// oldName is where the i-th file is set aside: a thousand to a directory, relative to the transaction's directory.
func oldName(i int) string {
	return path.Join(oldDir, strconv.Itoa(i/1000), strconv.Itoa(i))
}

// writeDurably writes a new file and does not return before it is on the disk. Whatever lies at its name is an error, a link
// above all: programs of packages may have put it there.
func writeDurably(root *os.Root, name string, data []byte, sync bool) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir makes the names in a directory durable.
func syncDir(root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, os.ErrInvalid) {
		err = nil // a system where directories cannot be flushed
	}
	return errors.Join(err, f.Close())
}

// begin writes the journal. From here on a crash is found and dealt with.
func (t *transaction) begin(j *journal) error {
	data, err := j.bytes()
	if err != nil {
		return err
	}
	tmp := path.Join(transactionDir, journalFile+".new")
	for _, d := range []string{stagedDir, tempDir} {
		if err := t.meta.MkdirAll(path.Join(transactionDir, d), 0o755); err != nil {
			return err
		}
	}
	if err := writeDurably(t.meta, tmp, data, t.sync); err != nil {
		return err
	}
	for i := 0; i < len(j.Old); i += 1000 {
		if err := t.meta.MkdirAll(path.Join(transactionDir, path.Dir(oldName(i))), 0o755); err != nil {
			return err
		}
	}
	if err := t.meta.Rename(tmp, path.Join(transactionDir, journalFile)); err != nil {
		return err
	}
	if t.sync {
		return errors.Join(syncDir(t.meta, transactionDir), syncDir(t.meta, "."))
	}
	return nil
}

// commit is the point of no return: what was done stays, and what is left to do will be done.
func (t *transaction) commit() error {
	if err := writeDurably(t.meta, path.Join(transactionDir, commitFile), nil, t.sync); err != nil {
		return err
	}
	if t.sync {
		return syncDir(t.meta, transactionDir)
	}
	return nil
}

// end gives the transaction up in one step; the rest is tidying.
func (t *transaction) end() error {
	if err := t.meta.RemoveAll(doneDir); err != nil {
		return err
	}
	if err := t.meta.Rename(transactionDir, doneDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if t.sync {
		if err := syncDir(t.meta, "."); err != nil {
			return err
		}
	}
	if err := t.step("tidy"); err != nil {
		return err
	}
	return t.meta.RemoveAll(doneDir)
}
