package repodata

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// PatchInstructions change the records of a subdir after its packages were built: a channel mends a dependency that was
// wrong, revokes a package, or takes it out of the index. They come as patch_instructions.json in a package of their own.
//
// What is said about a .tar.bz2 holds for the .conda of the same name too. Files that are not there are passed over.
type PatchInstructions struct {
	tarBz2, conda  map[string][]Member // by file name: the keys to change
	revoke, remove map[string]bool     // by file name, twins included
}

// maxPatchVersion is the newest version of patch instructions: 2 may change run_exports (CEP 21).
const maxPatchVersion = 2

// revokedDepend is what conda's tools add to a revoked record, so that no solver takes it.
const revokedDepend = "package_has_been_revoked"

// ParsePatch reads patch instructions. Errors are *Error.
func ParsePatch(raw []byte) (*PatchInstructions, error) {
	if !jsontext.Value(raw).IsValid() {
		return nil, &Error{Msg: "patch instructions are not JSON"}
	}
	p := &PatchInstructions{tarBz2: map[string][]Member{}, conda: map[string][]Member{}, revoke: map[string]bool{}, remove: map[string]bool{}}
	o := scanObject(raw)
	for o.next() {
		key := string(o.key)
		var err error
		switch key {
		case "patch_instructions_version":
			if v, ok := parseVersion(o.value()); !ok || v < 1 || v > maxPatchVersion {
				err = errors.New("patch instructions of this version are not understood")
			}
		case "packages":
			err = parsePatches(o.value(), p.tarBz2)
		case "packages.conda":
			err = parsePatches(o.value(), p.conda)
		case "revoke":
			err = parseNames(o.value(), p.revoke)
		case "remove":
			err = parseNames(o.value(), p.remove)
		}
		if err != nil {
			return nil, &Error{Path: pointer(key), Msg: err.Error(), Err: err}
		}
	}
	if o.err != nil {
		return nil, &Error{Msg: "patch instructions are not an object"}
	}
	return p, nil
}

func parsePatches(raw []byte, into map[string][]Member) error {
	o := scanObject(raw)
	for o.next() {
		file := string(o.key)
		fields := scanObject(o.value())
		var list []Member
		for fields.next() {
			if key := string(fields.key); key != "indexed_timestamp" { // CEP 47: nobody but the server says when it listed a package
				list = append(list, Member{key, bytes.Clone(fields.value())})
			}
		}
		if fields.err != nil {
			return errors.New("the patch of " + file + " is not an object")
		}
		into[file] = list
	}
	return o.err
}

// parseNames reads file names; that of a .tar.bz2 means its .conda too.
func parseNames(raw []byte, into map[string]bool) error {
	if isNull(raw) {
		return nil
	}
	a := scanArray(raw)
	for a.next() {
		name, ok := unquote(a.elem)
		if !ok {
			return errors.New("a name is not a string")
		}
		into[name] = true
		if stem, ok := strings.CutSuffix(name, ".tar.bz2"); ok {
			into[stem+".conda"] = true
		}
	}
	return a.err
}

// Removed reports whether a file is taken out of the index; it stays where it is.
func (p *PatchInstructions) Removed(b Bucket, key string) bool {
	return p != nil && p.remove[b.Filename(key)]
}

// fields are the changes for a file, in the order in which they apply.
func (p *PatchInstructions) fields(b Bucket, key string) (list []Member) {
	file := b.Filename(key)
	if stem, ok := strings.CutSuffix(file, ".conda"); ok {
		list = append(slices.Clip(p.tarBz2[stem+".tar.bz2"]), p.conda[file]...)
	} else {
		list = p.tarBz2[file]
	}
	return list
}

// Record returns a record as the instructions change it: a value replaces what is there or is added, an object is merged,
// null deletes. Run exports are not part of it; see [PatchInstructions.RunExports]. raw must be sound, and is not changed.
func (p *PatchInstructions) Record(b Bucket, key string, raw []byte) ([]byte, error) {
	if p == nil {
		return raw, nil
	}
	var err error
	for _, f := range p.fields(b, key) {
		if f.Key == "run_exports" {
			continue
		}
		if raw, err = patchKey(raw, f); err != nil {
			return nil, err
		}
	}
	if !p.revoke[b.Filename(key)] {
		return raw, nil
	}
	if raw, err = SetKey(raw, "revoked", []byte("true")); err != nil {
		return nil, err
	}
	depends := []byte("[")
	a := scanArray(Key(raw, "depends"))
	for a.next() {
		depends = append(append(depends, a.elem...), ',')
	}
	depends = append(appendQuoted(depends, revokedDepend), ']')
	return SetKey(raw, "depends", depends)
}

// RunExports returns a package's run exports as the instructions change them (CEP 21).
func (p *PatchInstructions) RunExports(b Bucket, key string, raw []byte) ([]byte, error) {
	if p == nil {
		return raw, nil
	}
	for _, f := range p.fields(b, key) {
		if f.Key != "run_exports" {
			continue
		}
		wrapped := append(append([]byte(`{"run_exports":`), cmpRaw(raw)...), '}')
		out, err := patchKey(wrapped, f)
		if err != nil {
			return nil, err
		}
		raw = Key(out, "run_exports")
	}
	return raw, nil
}

func cmpRaw(raw []byte) []byte {
	if len(raw) == 0 {
		return []byte("{}")
	}
	return raw
}

// patchKey applies one change to a record.
func patchKey(raw []byte, f Member) ([]byte, error) {
	if isNull(f.Raw) {
		if Key(raw, f.Key) == nil {
			return raw, nil
		}
		return DeleteKey(raw, f.Key)
	}
	old := Key(raw, f.Key)
	if len(f.Raw) == 0 || f.Raw[0] != '{' || len(old) == 0 || old[0] != '{' {
		return SetKey(raw, f.Key, f.Raw)
	}
	merged := bytes.Clone(old)
	o := scanObject(f.Raw)
	for o.next() {
		var err error
		if merged, err = SetKey(merged, string(o.key), o.value()); err != nil {
			return nil, err
		}
	}
	if o.err != nil {
		return nil, o.err
	}
	return SetKey(raw, f.Key, merged)
}
