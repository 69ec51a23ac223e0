package activate

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Environment is what activation needs to know of a prefix.
type Environment struct {
	Prefix string // absolute
	// Vars are the variables that the environment sets, without those that are [Reserved].
	Vars map[string]string
	// Ignored are the names of those, sorted.
	Ignored []string
	// Enter and Exit are scripts for shells of the POSIX family, absolute, in the order in which they are read.
	Enter, Exit []string
	// EnterFish and ExitFish are the same for fish.
	EnterFish, ExitFish []string
}

const (
	stateFile = "conda-meta/state"
	varsDir   = "etc/conda/env_vars.d"
	enterDir  = "etc/conda/activate.d"
	exitDir   = "etc/conda/deactivate.d"
	// maxFile bounds a file of variables.
	maxFile = 4 << 20
)

// Error is a file of an environment that cannot be used.
type Error struct {
	File string
	Err  error
}

// Error implements error.
func (e *Error) Error() string { return e.File + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Load reads an environment. A file that is not what it should be is an *Error.
func Load(prefix string) (*Environment, error) {
	abs, err := filepath.Abs(prefix)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(abs, ":\x00\n") {
		return nil, fmt.Errorf("the prefix %q cannot stand in PATH", abs)
	}
	e := &Environment{Prefix: abs, Vars: map[string]string{}}
	names, err := list(filepath.Join(abs, filepath.FromSlash(varsDir)), ".json")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		data, err := read(name)
		if err != nil {
			return nil, err
		}
		vars, err := ParseVars(data)
		if err != nil {
			return nil, &Error{name, err}
		}
		maps.Copy(e.Vars, vars)
	}
	name := filepath.Join(abs, filepath.FromSlash(stateFile))
	data, err := read(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		st, err := ParseState(data)
		if err != nil {
			return nil, &Error{name, err}
		}
		for k, v := range st.Vars {
			if v == Unset {
				delete(e.Vars, k)
				continue
			}
			e.Vars[k] = v
		}
	}
	for _, k := range slices.Sorted(maps.Keys(e.Vars)) {
		if Reserved(k) {
			delete(e.Vars, k)
			e.Ignored = append(e.Ignored, k)
		}
	}
	for _, x := range []struct {
		into      *[]string
		dir, suff string
	}{
		{&e.Enter, enterDir, ".sh"}, {&e.Exit, exitDir, ".sh"}, {&e.EnterFish, enterDir, ".fish"}, {&e.ExitFish, exitDir, ".fish"},
	} {
		if *x.into, err = list(filepath.Join(abs, filepath.FromSlash(x.dir)), x.suff); err != nil {
			return nil, err
		}
	}
	slices.Reverse(e.Exit)
	slices.Reverse(e.ExitFish)
	return e, nil
}

// list returns the files of a directory with a suffix, in code-point order.
func list(dir, suffix string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) && !e.IsDir() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out, nil // ReadDir sorts by name
}

func read(name string) ([]byte, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxFile {
		return nil, &Error{name, fmt.Errorf("it has %d bytes, which is more than variables take", st.Size())}
	}
	return os.ReadFile(name)
}

// ParseVars reads a file of env_vars.d: an object of names and texts. Numbers and truth values are taken as conda takes
// them, as texts; null leaves a name out.
func ParseVars(data []byte) (map[string]string, error) {
	fields := map[string]jsontext.Value{}
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, jsonError(err)
	}
	out := map[string]string{}
	for name, v := range fields {
		if err := CheckName(name); err != nil {
			return nil, err
		}
		switch v.Kind() {
		case '"':
			s, err := jsontext.AppendUnquote(nil, v)
			if err != nil {
				return nil, jsonError(err)
			}
			if strings.IndexByte(string(s), 0) >= 0 {
				return nil, fmt.Errorf("the value of %s has a zero in it", name)
			}
			out[name] = string(s)
		case '0', 't', 'f':
			out[name] = string(v)
		case 'n':
		default:
			return nil, fmt.Errorf("the value of %s is no text", name)
		}
	}
	return out, nil
}

// CheckName refuses what a shell would not take for a variable's name. A name ends up in a script as it is.
func CheckName(name string) error {
	for i, c := range []byte(name) {
		if c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9' {
			continue
		}
		return fmt.Errorf("%q is no name of a variable", name)
	}
	if name == "" {
		return errors.New("a variable has no name")
	}
	return nil
}

// Reserved reports whether a name is one that activation itself needs: PATH, what begins with CONDA_, and where values are
// kept until the environment is left. A package that set them would decide which programs run after it, or which
// environment the shell believes to be in; so variables of these names are never taken from an environment's files.
func Reserved(name string) bool {
	return name == "PATH" || strings.HasPrefix(name, "CONDA_") || strings.HasPrefix(name, "__CONDA_") || strings.HasPrefix(name, "__entrepot_")
}

func jsonError(err error) error {
	return errors.New(strings.TrimPrefix(strings.TrimPrefix(err.Error(), "json: "), "jsontext: "))
}

// State is conda-meta/state.
type State struct {
	Version int
	Vars    map[string]string
	other   map[string]jsontext.Value // what other programs keep there
}

// Unset is the value by which conda marks a variable of the state as not set, hiding one of env_vars.d.
const Unset = "***unset***"

// ParseState reads conda-meta/state. Keys that are not known are kept.
func ParseState(data []byte) (*State, error) {
	s := &State{Version: 1, Vars: map[string]string{}}
	if err := json.Unmarshal(data, &s.other); err != nil {
		return nil, jsonError(err)
	}
	if s.other == nil {
		s.other = map[string]jsontext.Value{}
	}
	if v, ok := s.other["version"]; ok && v.Kind() == '0' {
		if err := json.Unmarshal(v, &s.Version); err != nil {
			return nil, fmt.Errorf("version: %w", jsonError(err))
		}
	}
	if v, ok := s.other["env_vars"]; ok && v.Kind() != 'n' {
		var err error
		if s.Vars, err = ParseVars(v); err != nil {
			return nil, fmt.Errorf("env_vars: %w", err)
		}
	}
	delete(s.other, "version")
	delete(s.other, "env_vars")
	return s, nil
}

// Bytes writes the state.
func (s *State) Bytes() ([]byte, error) {
	fields := maps.Clone(s.other)
	if fields == nil {
		fields = map[string]jsontext.Value{}
	}
	vars, err := json.Marshal(s.Vars, json.Deterministic(true))
	if err != nil {
		return nil, jsonError(err)
	}
	fields["version"], fields["env_vars"] = jsontext.Value(strconv.Itoa(max(s.Version, 1))), vars
	out, err := json.Marshal(fields, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return nil, jsonError(err)
	}
	return append(out, '\n'), nil
}

// SetVariables changes variables of an environment, in conda-meta/state; an empty value is a value, a name in unset goes.
func SetVariables(prefix string, set map[string]string, unset []string) error {
	name := filepath.Join(prefix, filepath.FromSlash(stateFile))
	s := &State{Version: 1, Vars: map[string]string{}}
	data, err := read(name)
	if err == nil {
		s, err = ParseState(data)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", name, err)
	}
	for k, v := range set {
		if err := CheckName(k); err != nil {
			return err
		}
		if strings.IndexByte(v, 0) >= 0 {
			return fmt.Errorf("the value of %s has a zero in it", k)
		}
		if Reserved(k) {
			return fmt.Errorf("%s is a variable of activation itself", k)
		}
		s.Vars[k] = v
	}
	for _, k := range unset {
		delete(s.Vars, k)
	}
	if data, err = s.Bytes(); err != nil {
		return err
	}
	tmp := name + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, name)
}
