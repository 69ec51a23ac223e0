package activate

import (
	"cmp"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Name is what CONDA_DEFAULT_ENV says: the directory's name where environments live side by side, else its path.
func (e *Environment) Name() string {
	if filepath.Base(filepath.Dir(e.Prefix)) == "envs" {
		return filepath.Base(e.Prefix)
	}
	return e.Prefix
}

// saved are the variables whose values are kept while the environment is active, and restored when it is left.
func (e *Environment) saved() []string {
	return append([]string{"CONDA_DEFAULT_ENV", "CONDA_PROMPT_MODIFIER"}, slices.Sorted(maps.Keys(e.Vars))...)
}

// savedPrefix begins the name under which a value of a level is kept, as conda does it: the level and _NAME follow.
const savedPrefix = "__CONDA_SHLVL_"

// Variables returns an environment for a program that is started within e: base, as os.Environ has it, changed just as
// [Environment.Script] changes it for a shell. The scripts of activate.d may set more.
func (e *Environment) Variables(base []string) []string {
	set := maps.Clone(e.Vars)
	was := map[string]string{}
	for _, kv := range base {
		if k, v, ok := strings.Cut(kv, "="); ok {
			was[k] = v
		}
	}
	lvl := level(was["CONDA_SHLVL"])
	maps.Copy(set, e.activation(was["CONDA_PREFIX"], lvl))
	stale := map[string]bool{}
	for _, k := range e.saved() {
		as := savedPrefix + strconv.Itoa(lvl) + "_" + k
		if v, ok := was[k]; ok {
			set[as] = v
		} else {
			stale[as] = true
		}
	}
	set["PATH"] = prepend(filepath.Join(e.Prefix, "bin"), was["PATH"])
	out := make([]string, 0, len(base)+len(set))
	for _, kv := range base {
		k, _, _ := strings.Cut(kv, "=")
		if _, ok := set[k]; !ok && !stale[k] {
			out = append(out, kv)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(set)) {
		out = append(out, k+"="+set[k])
	}
	return out
}

func level(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 1000 {
		return 0
	}
	return n
}

// activation are the variables of conda itself, given what is active now.
func (e *Environment) activation(prefix string, shlvl int) map[string]string {
	set := map[string]string{
		"CONDA_PREFIX": e.Prefix, "CONDA_DEFAULT_ENV": e.Name(), "CONDA_SHLVL": strconv.Itoa(shlvl + 1),
		"CONDA_PROMPT_MODIFIER": "(" + e.Name() + ") ",
	}
	if prefix != "" && shlvl > 0 {
		set["CONDA_PREFIX_"+strconv.Itoa(shlvl)] = prefix
	}
	return set
}

// prepend puts a directory in front of a search path, unless it is there. If it is farther behind, too, it stays there:
// when the environment is left, only what was added goes.
func prepend(dir, search string) string {
	if first, _, _ := strings.Cut(search, ":"); first == dir || search == "" {
		return cmp.Or(search, dir)
	}
	return dir + ":" + search
}
