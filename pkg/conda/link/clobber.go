package link

import (
	"fmt"
	"slices"
	"strings"
)

// ClobberDir is where files lie that another package's file hides.
const ClobberDir = "__clobbers__"

// ForeignDir is where files go that belong to no package when a package needs their place.
const ForeignDir = "__foreign__"

// Plans are the entries of one package.
type Plans struct {
	Name    string // of the package
	Entries []Entry
}

// Clobber is a path that several packages have.
type Clobber struct {
	Path   string
	Winner string   // package
	Losers []string // packages, in the order of linking
}

// ClobberError refuses packages that have a path in common.
type ClobberError struct{ Clobbers []Clobber }

// Error implements error.
func (e *ClobberError) Error() string {
	var b strings.Builder
	for i, c := range e.Clobbers {
		if i == 3 {
			fmt.Fprintf(&b, "; and %d more", len(e.Clobbers)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s is in %s and in %s", c.Path, c.Winner, strings.Join(c.Losers, ", "))
	}
	return b.String()
}

// Clobbers settles which package has a path that several of them want. The plans come in the order of linking; later ones
// win. Entries that lose move to ClobberDir, with Original set. What it returns is sorted by path and meant for a warning.
//
// A file of one package where others have a directory is settled alike: if the file's package comes behind all that have
// something in the directory, all of them lose; else the file does.
func Clobbers(plans []Plans) []Clobber {
	total := 0
	for i := range plans {
		total += len(plans[i].Entries)
	}
	c := clobbers{
		plans: plans, first: make(map[string]int, total), more: map[string][]int{},
		dirs: make(map[string]int, total/8), suspects: map[string]bool{},
	}
	c.collect()
	if len(c.suspects) == 0 {
		return nil
	}
	return c.settle()
}

type clobbers struct {
	plans []Plans
	first map[string]int   // path of a file → rank of the first package that has it; nearly always the only one
	more  map[string][]int // ranks of all, if there are several
	dirs  map[string]int   // directory → the highest rank of those who have something in it
	// suspects are paths that more than one package has as a file, or that are a directory as well.
	suspects map[string]bool
}

func (c *clobbers) collect() {
	for rank := range c.plans {
		last := ""
		for i := range c.plans[rank].Entries {
			e := &c.plans[rank].Entries[i]
			if e.Type == Directory {
				c.touch(e.Path, rank)
			} else {
				c.file(e.Path, rank)
			}
			if dir := parent(e.Path); dir != last {
				c.touch(dir, rank)
				last = dir
			}
		}
	}
}

func (c *clobbers) file(name string, rank int) {
	if first, ok := c.first[name]; ok {
		if c.more[name] == nil {
			c.more[name] = []int{first}
		}
		c.more[name] = append(c.more[name], rank)
		c.suspects[name] = true
		return
	}
	c.first[name] = rank
	if _, ok := c.dirs[name]; ok {
		c.suspects[name] = true
	}
}

// touch notes that a package has something in a directory. Ranks come in ascending order, so where it is noted already
// it is noted for all directories above.
func (c *clobbers) touch(dir string, rank int) {
	for ; dir != ""; dir = parent(dir) {
		r, ok := c.dirs[dir]
		if ok && r == rank {
			return
		}
		c.dirs[dir] = rank
		if !ok {
			if _, ok := c.first[dir]; ok {
				c.suspects[dir] = true
			}
		}
	}
}

// winner is the rank of the package whose file would be at a path, were it not for directories.
func (c *clobbers) winner(name string) int {
	if more := c.more[name]; more != nil {
		return more[len(more)-1]
	}
	return c.first[name]
}

func parent(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return ""
}

// settle moves the losers.
func (c *clobbers) settle() []Clobber {
	fileWins := map[string]bool{} // directories of some whose place a file takes
	contested := map[string]*Clobber{}
	for name := range c.suspects {
		file := c.winner(name)
		dir, isDir := c.dirs[name]
		if isDir && dir < file {
			fileWins[name] = true
		}
		switch {
		case isDir && dir != file:
			contested[name] = &Clobber{Path: name, Winner: c.plans[max(dir, file)].Name}
		case c.more[name] != nil:
			contested[name] = &Clobber{Path: name, Winner: c.plans[file].Name}
		}
	}
	if len(contested) == 0 {
		return nil
	}
	for rank := range c.plans {
		p := &c.plans[rank]
		for i := range p.Entries {
			e := &p.Entries[i]
			at := c.loses(e, rank, fileWins)
			if at == "" {
				continue
			}
			if l := contested[at]; l != nil && !slices.Contains(l.Losers, p.Name) {
				l.Losers = append(l.Losers, p.Name)
			}
			e.Original, e.Path = e.Path, ClobberDir+"/"+p.Name+"/"+e.Path
		}
	}
	out := make([]Clobber, 0, len(contested))
	for _, l := range contested {
		out = append(out, *l)
	}
	slices.SortFunc(out, func(a, b Clobber) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// loses returns the path at which an entry loses, or "".
func (c *clobbers) loses(e *Entry, rank int, fileWins map[string]bool) string {
	if len(fileWins) > 0 {
		for dir := parent(e.Path); dir != ""; dir = parent(dir) {
			if fileWins[dir] {
				return dir
			}
		}
	}
	if !c.suspects[e.Path] {
		return ""
	}
	if e.Type == Directory {
		if fileWins[e.Path] {
			return e.Path
		}
		return ""
	}
	file := c.winner(e.Path)
	if dir, ok := c.dirs[e.Path]; ok && dir > file || file != rank {
		return e.Path
	}
	return ""
}
