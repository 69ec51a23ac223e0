package install

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

// Revision is a block of conda-meta/history: one change of the environment.
type Revision struct {
	Time    string // as it stands there: YYYY-MM-DD HH:MM:SS, local to who wrote it
	Command string
	Tool    string // such as "entrepot version: 1.0"
	// Removed and Added are packages as channel/subdir::name-version-build; conda leaves the channel's URL out.
	Removed, Added []string
	// Requests are the comments behind the packages: action and specs, such as "update" → ["python >=3.12"].
	Requests []Request
}

// Request is what somebody asked for.
type Request struct {
	Action string // update, remove, neutered, …
	Specs  []string
}

const historyTime = time.DateTime

// Append adds the revision to a history file's content.
func (r *Revision) append(b []byte) []byte {
	if len(b) > 0 && b[len(b)-1] != '\n' {
		b = append(b, '\n')
	}
	b = fmt.Appendf(b, "==> %s <==\n", oneLine(r.Time))
	if r.Command != "" {
		b = fmt.Appendf(b, "# cmd: %s\n", oneLine(r.Command))
	}
	if r.Tool != "" {
		b = fmt.Appendf(b, "# %s\n", oneLine(r.Tool))
	}
	for _, p := range r.Removed {
		b = fmt.Appendf(b, "-%s\n", oneLine(p))
	}
	for _, p := range r.Added {
		b = fmt.Appendf(b, "+%s\n", oneLine(p))
	}
	for _, a := range r.Requests {
		quoted := make([]string, len(a.Specs))
		for i, s := range a.Specs {
			quoted[i] = pyQuote(s)
		}
		b = fmt.Appendf(b, "# %s specs: [%s]\n", oneLine(a.Action), strings.Join(quoted, ", "))
	}
	return b
}

// oneLine keeps a line a line: a command may hold anything.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// pyQuote writes a Python string literal, which is what conda evaluates.
func pyQuote(s string) string {
	s = strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`, "\r", `\r`).Replace(s)
	return "'" + s + "'"
}

// ParseHistory reads conda-meta/history. Lines that it does not know are passed over, as conda does.
func ParseHistory(data []byte) []Revision {
	var out []Revision
	for line := range bytes.Lines(data) {
		s := strings.TrimRight(string(line), "\r\n")
		if rest, ok := strings.CutPrefix(s, "==> "); ok && strings.HasSuffix(rest, " <==") {
			out = append(out, Revision{Time: strings.TrimSuffix(rest, " <==")})
			continue
		}
		if len(out) == 0 || s == "" {
			continue
		}
		r := &out[len(out)-1]
		switch s[0] {
		case '-':
			r.Removed = append(r.Removed, s[1:])
		case '+':
			r.Added = append(r.Added, s[1:])
		case '#':
			r.comment(strings.TrimPrefix(s[1:], " "))
		}
	}
	return out
}

func (r *Revision) comment(s string) {
	if cmd, ok := strings.CutPrefix(s, "cmd: "); ok {
		r.Command = cmd
		return
	}
	if action, rest, ok := strings.Cut(s, " specs: "); ok && action != "" && strings.Trim(action, "abcdefghijklmnopqrstuvwxyz") == "" {
		if specs, ok := pyList(rest); ok {
			r.Requests = append(r.Requests, Request{action, specs})
			return
		}
	}
	if r.Tool == "" && strings.Contains(s, " version: ") {
		r.Tool = s
	}
}

// pyList reads a Python list of strings.
func pyList(s string) ([]string, bool) {
	s, ok := strings.CutPrefix(strings.TrimSpace(s), "[")
	if !ok {
		return nil, false
	}
	if s, ok = strings.CutSuffix(s, "]"); !ok {
		return nil, false
	}
	var out []string
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		q := s[0]
		if q != '\'' && q != '"' {
			return nil, false
		}
		var b strings.Builder
		i, closed := 1, false
		for ; i < len(s); i++ {
			if s[i] == q {
				closed = true
				break
			}
			if s[i] == '\\' && i+1 < len(s) {
				i++
				switch s[i] {
				case 'n':
					b.WriteByte('\n')
					continue
				case 'r':
					b.WriteByte('\r')
					continue
				}
			}
			b.WriteByte(s[i])
		}
		if !closed {
			return nil, false
		}
		out = append(out, b.String())
		s = strings.TrimSpace(s[i+1:])
		if s == "" {
			break
		}
		if s, ok = strings.CutPrefix(s, ","); !ok {
			return nil, false
		}
	}
	return out, true
}

// historyName is how a package stands in the history.
func historyName(channel, subdir, stem string) string {
	name := strings.Trim(dist.WithoutSecrets(channel), "/")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		name = name[i+1:]
	}
	if name == "" {
		return stem
	}
	if subdir != "" {
		name += "/" + subdir
	}
	return name + "::" + stem
}

// revision says what a change did.
func (c *Change) revision() Revision {
	var r Revision
	gone := slices.Clone(c.Remove)
	var come []*Package
	for _, x := range c.Replace {
		if x.Why == Different {
			gone, come = append(gone, x.Old), append(come, x.New)
		}
	}
	for _, p := range gone {
		r.Removed = append(r.Removed, historyName(p.Channel, p.Subdir, p.Stem()))
	}
	for _, p := range append(come, c.Install...) {
		r.Added = append(r.Added, historyName(p.Channel, p.Subdir, p.Name+"-"+p.Version+"-"+p.Build))
	}
	slices.Sort(r.Removed)
	slices.Sort(r.Added)
	return r
}
