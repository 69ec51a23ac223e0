package migrationlint

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Finding is a statement that breaks the rule.
type Finding struct {
	// Line of the statement in its file, from 1.
	Line int
	// Message says what is wrong and what to do instead.
	Message string
}

func (f Finding) String() string { return fmt.Sprintf("line %d: %s", f.Line, f.Message) }

// rule names a kind of statement that an upgrade cannot bear.
type rule struct {
	// match's first group names the table; a table of the same file is exempt.
	match *regexp.Regexp
	// unless is what makes the statement harmless; may be nil.
	unless  *regexp.Regexp
	message string
	// contracts: programs from before the release that stopped using it break, so the file must name the oldest that do not.
	contracts bool
}

func re(s string) *regexp.Regexp {
	return regexp.MustCompile(`(?is)` + strings.ReplaceAll(s, " ", `\s+`))
}

const alter = `^ALTER TABLE (?:IF EXISTS )?(?:ONLY )?([\w."]+)\b.*`

var rules = []rule{
	{re(`^DROP (?:TABLE|VIEW|MATERIALIZED VIEW|TYPE|FUNCTION|SEQUENCE|SCHEMA)\b(?: IF EXISTS)? ([\w."]+)`), nil, "takes away what the version before may use", true},
	{re(alter + `\bDROP COLUMN\b`), nil, "takes away what the version before may use", true},
	{re(alter + `\bDROP (?:IF EXISTS )?[\w"]+`), re(`\bDROP (?:COLUMN|CONSTRAINT|NOT NULL|DEFAULT|EXPRESSION|IDENTITY)\b`), "takes away what the version before may use", true},
	{re(alter + `\bALTER (?:COLUMN )?[\w"]+ DROP DEFAULT\b`), nil, "makes inserts of the version before fail", true},
	{re(alter + `\bRENAME\b`), nil, "gives another name to what the version before may use", true},
	{re(`^ALTER (?:TYPE|SCHEMA|INDEX|VIEW|SEQUENCE) ([\w."]+).*\bRENAME\b`), nil, "gives another name to what the version before may use", true},
	{re(alter + `\bALTER (?:COLUMN )?[\w"]+ (?:SET DATA )?TYPE\b`), nil, "rewrites the table under an exclusive lock; add a column and fill it with a job", true},
	{re(alter + `\bSET NOT NULL\b`), nil, "refuses rows that the version before may write; one release later", true},
	{re(alter + `\bADD (?:COLUMN )?(?:IF NOT EXISTS )?[\w"]+ [^,]*\bNOT NULL\b`), re(`\bDEFAULT\b|\bGENERATED\b`), "is NOT NULL without a default: inserts of the version before would fail", true},
	{re(alter + `\bADD (?:CONSTRAINT [\w"]+ )?(?:CHECK|FOREIGN KEY)\b`), re(`\bNOT VALID\b`), "checks the whole table under a lock; add it NOT VALID and validate it afterwards", false},
	{re(alter + `\bADD (?:CONSTRAINT [\w"]+ )?(?:UNIQUE|PRIMARY KEY|EXCLUDE)\b`), re(`\bUSING INDEX\b`), "builds an index under a lock; create it CONCURRENTLY, then add the constraint USING INDEX", false},
	{re(`^CREATE (?:UNIQUE )?INDEX\b.*? ON (?:ONLY )?([\w."]+)`), re(`\bCONCURRENTLY\b`), "locks out writers while it builds; use CONCURRENTLY in a file with '-- +goose NO TRANSACTION'", false},
	{re(`^DROP INDEX(?: IF EXISTS)? ([\w."]+)`), re(`\bCONCURRENTLY\b`), "waits for every query under an exclusive lock; use CONCURRENTLY in a file with '-- +goose NO TRANSACTION'", false},
	{re(`^(?:UPDATE|DELETE FROM|TRUNCATE(?: TABLE)?)(?: ONLY)? ([\w."]+)`), nil, "changes rows under one transaction; a backfill is a job", false},
	{re(`^LOCK(?: TABLE)? ([\w."]+)`), nil, "stops the version before", false},
}

var (
	creates       = re(`^CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?([\w."]+)`)
	concurrently  = re(`\bCONCURRENTLY\b`)
	noTransaction = regexp.MustCompile(`(?m)^-- \+goose NO TRANSACTION\s*$`)
	contract      = regexp.MustCompile(`^\s*-- contract: \S.*`)
)

// Check returns what a migration does that an upgrade cannot bear. It looks at the way up only.
func Check(sql string) []Finding {
	up, _, _ := strings.Cut(sql, "-- +goose Down")
	statements := split(up)
	own := map[string]bool{}
	for _, s := range statements {
		if m := creates.FindStringSubmatch(s.text); m != nil {
			own[table(m[1])] = true
		}
	}
	var out []Finding
	min, err := pg.MinVersion(up)
	if err != nil {
		out = append(out, Finding{1, err.Error()})
	}
	for _, s := range statements {
		if !s.contract && concurrently.MatchString(s.text) && !noTransaction.MatchString(sql) {
			out = append(out, Finding{s.line, "CONCURRENTLY needs a file with '-- +goose NO TRANSACTION'"})
		}
		for _, r := range rules {
			m := r.match.FindStringSubmatch(s.text)
			if m == nil || own[table(m[1])] || r.unless != nil && r.unless.MatchString(s.text) {
				continue
			}
			switch {
			case !s.contract:
				out = append(out, Finding{s.line, fmt.Sprintf("%s %s", first(s.text), r.message)})
			case r.contracts && min == 0 && err == nil:
				out = append(out, Finding{s.line, fmt.Sprintf("%s contracts: say which programs work with it, by a line '-- entrepot:min-version <n>' in the file", first(s.text))})
			}
		}
	}
	return out
}

func table(name string) string { return strings.ToLower(strings.ReplaceAll(name, `"`, "")) }

// first returns the beginning of a statement, for a message.
func first(text string) string {
	words := strings.Fields(text)
	if len(words) > 6 {
		words = append(words[:6:6], "…")
	}
	return "'" + strings.Join(words, " ") + "'"
}

type statement struct {
	text     string
	line     int
	contract bool // the line above says why it may contract
}

var quoted = regexp.MustCompile(`(?s)'(?:[^']|'')*'|\$(\w*)\$.*?\$\w*\$`)

// split takes SQL apart at its semicolons, without comments and without what is in quotes.
func split(sql string) []statement {
	// Lines stay where they are, so that findings can name them.
	sql = quoted.ReplaceAllStringFunc(sql, func(q string) string { return "''" + strings.Repeat("\n", strings.Count(q, "\n")) })
	var out []statement
	cur, allowed := statement{}, false
	for i, line := range strings.Split(sql, "\n") {
		if cur.text == "" && contract.MatchString(line) {
			allowed = true
		}
		code, _, _ := strings.Cut(line, "--")
		for {
			part, rest, more := strings.Cut(code, ";")
			if cur.text == "" && strings.TrimSpace(part) != "" {
				cur = statement{line: i + 1, contract: allowed}
				allowed = false
			}
			if text := strings.TrimSpace(part); text != "" {
				cur.text = strings.TrimSpace(cur.text + " " + text)
			}
			if !more {
				break
			}
			if cur.text != "" {
				out = append(out, cur)
				cur = statement{}
			}
			code = rest
		}
	}
	if cur.text != "" {
		out = append(out, cur)
	}
	return out
}

// CheckRange returns what is wrong with the version that a migration demands of programs, if it demands one: released is
// the newest version of its schema in the last release, 0 before the first. Programs of that release run beside the next
// one, so no migration since may shut them out.
func CheckRange(name, sql string, released int64) []string {
	min, err := pg.MinVersion(sql)
	if err != nil || min == 0 {
		return nil // Check has said what is wrong
	}
	m := fileName.FindStringSubmatch(path.Base(name))
	if m == nil {
		return nil // CheckNames has said what is wrong
	}
	own, _ := strconv.ParseInt(m[1], 10, 64) // digits only
	switch {
	case min >= own:
		return []string{fmt.Sprintf("min-version %d shuts out everything older than the migration %d: contract one release later", min, own)}
	case released > 0 && own > released && min > released:
		return []string{fmt.Sprintf("min-version %d shuts out the last release, which knows %d: contract one release later", min, released)}
	}
	return nil
}

var fileName = regexp.MustCompile(`^(\d{4,5})_[a-z0-9_]+\.sql$`)

// CheckNames returns what is wrong with the file names of one schema: they are numbered 1, 2, 3, … and each number is used
// once. Two branches that both took the next number show up here, instead of one of them being passed over in silence.
func CheckNames(names []string) []string {
	var out []string
	var numbers []int
	for _, n := range names {
		n = path.Base(n)
		m := fileName.FindStringSubmatch(n)
		if m == nil {
			out = append(out, fmt.Sprintf("%s: is not called like 00001_what_it_does.sql", n))
			continue
		}
		v, _ := strconv.Atoi(m[1]) // digits only
		numbers = append(numbers, v)
	}
	slices.Sort(numbers)
	for i, v := range numbers {
		if v != i+1 {
			out = append(out, fmt.Sprintf("number %d is where %d should be: no number may be missing or used twice", v, i+1))
			break
		}
	}
	return out
}
