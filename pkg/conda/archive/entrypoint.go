package archive

import (
	"regexp"
	"strings"
)

// EntryPoint is one command of a noarch python package: at install time it
// becomes a script that imports Module and calls Func.
type EntryPoint struct {
	Command string // a file name in bin/
	Module  string // a dotted Python name
	Func    string // a dotted Python name
}

// Go's \w is ASCII; Python identifiers of entry points in the field are, too.
var dotted = regexp.MustCompile(`^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$`)

// ParseEntryPoint reads "command = module:function". Command becomes a file
// name and the rest becomes Python source, so all three are checked strictly:
// a slash here once let packages write anywhere (GHSA-9m8m-c4j3-rj2c).
func ParseEntryPoint(s string) (EntryPoint, error) {
	bad := func(msg string) (EntryPoint, error) {
		return EntryPoint{}, refuse(linkFile, "noarch.entry_points", "%s: %s", quote(s), msg)
	}
	cmd, target, ok := strings.Cut(s, "=")
	if !ok {
		return bad("it is not of the form command = module:function")
	}
	e := EntryPoint{Command: strings.Trim(cmd, " \t")}
	e.Module, e.Func, ok = strings.Cut(target, ":")
	e.Module, e.Func = strings.Trim(e.Module, " \t"), strings.Trim(e.Func, " \t")
	switch {
	case !ok || !dotted.MatchString(e.Module) || !dotted.MatchString(e.Func):
		return bad("module and function must be dotted Python names")
	case e.Command == "" || len(e.Command) > 200:
		return bad("the command is empty or too long")
	case e.Command[0] == '.' || e.Command[0] == '-':
		return bad("the command must not begin with a dot or a dash")
	}
	for _, r := range e.Command {
		if r <= ' ' || r == 0x7f || strings.ContainsRune(`/\:"'<>|?*`, r) {
			return bad("the command contains a character that does not belong into a file name")
		}
	}
	return e, nil
}
