package activate

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// Shell is a kind of shell that scripts are written for.
type Shell string

// Shells. Posix is for sh, bash, dash, ksh and zsh.
const (
	Posix Shell = "posix"
	Fish  Shell = "fish"
)

// ParseShell reads a shell's name.
func ParseShell(name string) (Shell, error) {
	switch filepath.Base(name) {
	case "posix", "sh", "bash", "dash", "ash", "ksh", "zsh", "busybox":
		return Posix, nil
	case "fish":
		return Fish, nil
	}
	return "", fmt.Errorf("%q is none of bash, zsh, sh, dash, ksh, fish", name)
}

// Script is text that a shell evaluates to enter the environment:
//
//	eval "$(entrepot conda activate --prefix ./env)"
//
// It works in a shell in which another environment is active, and may be evaluated with "set -u" and "set -e" on. Which
// environment that is, and which PATH there is, is decided when it is evaluated.
func (e *Environment) Script(sh Shell) string {
	if sh == Fish {
		return e.fish()
	}
	var b strings.Builder
	bin := quote(filepath.Join(e.Prefix, "bin"))
	b.WriteString(posixLevel +
		"if [ \"$__entrepot_lvl\" -gt 0 ] && [ -n \"${CONDA_PREFIX:-}\" ]; then\n" +
		"    eval \"export CONDA_PREFIX_$__entrepot_lvl=\\\"\\$CONDA_PREFIX\\\"\"\nfi\n")
	for _, k := range e.saved() {
		fmt.Fprintf(&b, "if [ -n \"${%[1]s+x}\" ]; then eval \"export %[2]s${__entrepot_lvl}_%[1]s=\\\"\\$%[1]s\\\"\"; else unset \"%[2]s${__entrepot_lvl}_%[1]s\"; fi\n", k, savedPrefix)
	}
	fmt.Fprintf(&b, "case \":${PATH:-}:\" in\n    :%s:*) ;;\n    *) export PATH=%s\"${PATH:+:$PATH}\" ;;\nesac\n", bin, bin)
	fmt.Fprintf(&b, "export CONDA_PREFIX=%s\n", quote(e.Prefix))
	fmt.Fprintf(&b, "export CONDA_DEFAULT_ENV=%s\n", quote(e.Name()))
	fmt.Fprintf(&b, "export CONDA_PROMPT_MODIFIER=%s\n", quote("("+e.Name()+") "))
	b.WriteString("export CONDA_SHLVL=$((__entrepot_lvl + 1))\nunset __entrepot_lvl\n")
	for _, k := range slices.Sorted(maps.Keys(e.Vars)) {
		fmt.Fprintf(&b, "export %s=%s\n", k, quote(e.Vars[k]))
	}
	for _, s := range e.Enter {
		fmt.Fprintf(&b, ". %s\n", quote(s))
	}
	b.WriteString("hash -r 2>/dev/null || true\n")
	return b.String()
}

// posixLevel finds out how many environments are active. A level that is no number would be evaluated as arithmetic, which
// in some shells runs commands.
const posixLevel = "__entrepot_lvl=\"${CONDA_SHLVL:-0}\"\ncase \"$__entrepot_lvl\" in ''|*[!0-9]*) __entrepot_lvl=0 ;; esac\n"

// Leave is text that a shell evaluates to leave the environment for the one that was active before, if there was one.
// Variables that the environment set have the values then that they had before it was entered.
func (e *Environment) Leave(sh Shell) string {
	if sh == Fish {
		return e.leaveFish()
	}
	var b strings.Builder
	for _, s := range e.Exit {
		fmt.Fprintf(&b, ". %s\n", quote(s))
	}
	b.WriteString(posixLevel + "if [ \"$__entrepot_lvl\" -gt 1 ]; then\n" +
		"    __entrepot_lvl=$((__entrepot_lvl - 1))\n" +
		"    eval \"CONDA_PREFIX=\\\"\\${CONDA_PREFIX_$__entrepot_lvl:-}\\\"\"\n" +
		"    eval \"unset CONDA_PREFIX_$__entrepot_lvl\"\n" +
		"    export CONDA_PREFIX CONDA_DEFAULT_ENV=\"$CONDA_PREFIX\" CONDA_PROMPT_MODIFIER=\"($CONDA_PREFIX) \"\n" +
		"else\n    __entrepot_lvl=0\n    unset CONDA_PREFIX CONDA_DEFAULT_ENV CONDA_PROMPT_MODIFIER\nfi\n" +
		"export CONDA_SHLVL=\"$__entrepot_lvl\"\n")
	for _, k := range e.saved() {
		otherwise := "unset " + k
		if Reserved(k) { // settled above, from the prefix
			otherwise = ":"
		}
		fmt.Fprintf(&b, "eval \"__entrepot_was=\\\"\\${%[2]s${__entrepot_lvl}_%[1]s+x}\\\"\"\n"+
			"if [ -n \"$__entrepot_was\" ]; then eval \"export %[1]s=\\\"\\$%[2]s${__entrepot_lvl}_%[1]s\\\"\"; unset \"%[2]s${__entrepot_lvl}_%[1]s\"; else %[3]s; fi\n",
			k, savedPrefix, otherwise)
	}
	// What was put in front goes, once, unless the environment below is the same. Without "local" and arrays, so that dash
	// and zsh read it alike.
	fmt.Fprintf(&b, "__entrepot_path=\"${PATH:-}:\"\n__entrepot_new=\n__entrepot_gone=\n[ \"${CONDA_PREFIX:-}\" != %s ] || __entrepot_gone=x\n"+
		"while [ -n \"$__entrepot_path\" ]; do\n"+
		"    __entrepot_one=\"${__entrepot_path%%%%:*}\"\n    __entrepot_path=\"${__entrepot_path#*:}\"\n"+
		"    if [ -z \"$__entrepot_gone\" ] && [ \"$__entrepot_one\" = %s ]; then __entrepot_gone=x\n"+
		"    else __entrepot_new=\"${__entrepot_new:+$__entrepot_new:}$__entrepot_one\"; fi\n"+
		"done\nexport PATH=\"$__entrepot_new\"\nunset __entrepot_path __entrepot_new __entrepot_one __entrepot_gone __entrepot_was __entrepot_lvl\n",
		quote(e.Prefix), quote(filepath.Join(e.Prefix, "bin")))
	b.WriteString("hash -r 2>/dev/null || true\n")
	return b.String()
}

func (e *Environment) fish() string {
	var b strings.Builder
	bin := quoteFish(filepath.Join(e.Prefix, "bin"))
	b.WriteString("string match -qr '^[0-9]+$' -- \"$CONDA_SHLVL\"; or set -gx CONDA_SHLVL 0\n")
	b.WriteString("if test $CONDA_SHLVL -gt 0; and set -q CONDA_PREFIX\n    set -gx CONDA_PREFIX_$CONDA_SHLVL $CONDA_PREFIX\nend\n")
	for _, k := range e.saved() {
		fmt.Fprintf(&b, "if set -q %[1]s\n    set -gx %[2]s\"$CONDA_SHLVL\"_%[1]s $%[1]s\nelse\n    set -e %[2]s\"$CONDA_SHLVL\"_%[1]s\nend\n", k, savedPrefix)
	}
	fmt.Fprintf(&b, "test \"$PATH[1]\" = %s; or set -gx PATH %s $PATH\n", bin, bin)
	fmt.Fprintf(&b, "set -gx CONDA_PREFIX %s\n", quoteFish(e.Prefix))
	fmt.Fprintf(&b, "set -gx CONDA_DEFAULT_ENV %s\n", quoteFish(e.Name()))
	fmt.Fprintf(&b, "set -gx CONDA_PROMPT_MODIFIER %s\n", quoteFish("("+e.Name()+") "))
	b.WriteString("set -gx CONDA_SHLVL (math $CONDA_SHLVL + 1)\n")
	for _, k := range slices.Sorted(maps.Keys(e.Vars)) {
		fmt.Fprintf(&b, "set -gx %s %s\n", k, quoteFish(e.Vars[k]))
	}
	for _, s := range e.EnterFish {
		fmt.Fprintf(&b, "source %s\n", quoteFish(s))
	}
	return b.String()
}

func (e *Environment) leaveFish() string {
	var b strings.Builder
	for _, s := range e.ExitFish {
		fmt.Fprintf(&b, "source %s\n", quoteFish(s))
	}
	b.WriteString("string match -qr '^[0-9]+$' -- \"$CONDA_SHLVL\"; or set -gx CONDA_SHLVL 0\n" +
		"if test $CONDA_SHLVL -gt 1\n" +
		"    set -gx CONDA_SHLVL (math $CONDA_SHLVL - 1)\n" +
		"    set -l below CONDA_PREFIX_$CONDA_SHLVL\n" +
		"    set -gx CONDA_PREFIX $$below\n    set -e $below\n    set -gx CONDA_DEFAULT_ENV $CONDA_PREFIX\n" +
		"    set -gx CONDA_PROMPT_MODIFIER \"($CONDA_PREFIX) \"\n" +
		"else\n    set -e CONDA_PREFIX\n    set -e CONDA_DEFAULT_ENV\n    set -e CONDA_PROMPT_MODIFIER\n    set -gx CONDA_SHLVL 0\nend\n")
	for _, k := range e.saved() {
		otherwise := ""
		if !Reserved(k) {
			otherwise = "    else\n        set -e " + k + "\n"
		}
		fmt.Fprintf(&b, "begin\n    set -l saved %[2]s\"$CONDA_SHLVL\"_%[1]s\n    if set -q $saved\n        set -gx %[1]s $$saved\n        set -e $saved\n%[3]s    end\nend\n", k, savedPrefix, otherwise)
	}
	fmt.Fprintf(&b, "if test \"$CONDA_PREFIX\" != %s\n    if set -l at (contains -i -- %s $PATH)\n        set -e PATH[$at]\n    end\nend\n",
		quoteFish(e.Prefix), quoteFish(filepath.Join(e.Prefix, "bin")))
	return b.String()
}

// quote makes a word of any text, for shells of the POSIX family.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-+@%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// quoteFish makes a word of any text for fish, where a backslash escapes within quotes, too.
func quoteFish(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
