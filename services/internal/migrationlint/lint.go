package migrationlint

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
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
}

func re(s string) *regexp.Regexp {
	return regexp.MustCompile(`(?is)` + strings.ReplaceAll(s, " ", `\s+`))
}

const alter = `^ALTER TABLE (?:IF EXISTS )?(?:ONLY )?([\w."]+)\b.*`

var rules = []rule{
	{re(`^DROP (?:TABLE|VIEW|MATERIALIZED VIEW|TYPE|FUNCTION|SEQUENCE|SCHEMA)\b(?: IF EXISTS)? ([\w."]+)`), nil, "takes away what the version before may use"},
	{re(alter + `\bDROP COLUMN\b`), nil, "takes away what the version before may use"},
	{re(alter + `\bDROP (?:IF EXISTS )?[\w"]+`), re(`\bDROP (?:COLUMN|CONSTRAINT|NOT NULL|DEFAULT|EXPRESSION|IDENTITY)\b`), "takes away what the version before may use"},
	{re(alter + `\bALTER (?:COLUMN )?[\w"]+ DROP DEFAULT\b`), nil, "makes inserts of the version before fail"},
	{re(alter + `\bRENAME\b`), nil, "gives another name to what the version before may use"},
	{re(`^ALTER (?:TYPE|SCHEMA|INDEX|VIEW|SEQUENCE) ([\w."]+).*\bRENAME\b`), nil, "gives another name to what the version before may use"},
	{re(alter + `\bALTER (?:COLUMN )?[\w"]+ (?:SET DATA )?TYPE\b`), nil, "rewrites the table under an exclusive lock; add a column and fill it with a job"},
	{re(alter + `\bSET NOT NULL\b`), nil, "refuses rows that the version before may write; one release later"},
	{re(alter + `\bADD (?:COLUMN )?(?:IF NOT EXISTS )?[\w"]+ [^,]*\bNOT NULL\b`), re(`\bDEFAULT\b|\bGENERATED\b`), "is NOT NULL without a default: inserts of the version before would fail"},
	{re(alter + `\bADD (?:CONSTRAINT [\w"]+ )?(?:CHECK|FOREIGN KEY)\b`), re(`\bNOT VALID\b`), "checks the whole table under a lock; add it NOT VALID and validate it afterwards"},
	{re(alter + `\bADD (?:CONSTRAINT [\w"]+ )?(?:UNIQUE|PRIMARY KEY|EXCLUDE)\b`), re(`\bUSING INDEX\b`), "builds an index under a lock; create it CONCURRENTLY, then add the constraint USING INDEX"},
	{re(`^CREATE (?:UNIQUE )?INDEX\b.*? ON (?:ONLY )?([\w."]+)`), re(`\bCONCURRENTLY\b`), "locks out writers while it builds; use CONCURRENTLY in a file with '-- +goose NO TRANSACTION'"},
	{re(`^DROP INDEX(?: IF EXISTS)? ([\w."]+)`), re(`\bCONCURRENTLY\b`), "waits for every query under an exclusive lock; use CONCURRENTLY in a file with '-- +goose NO TRANSACTION'"},
	{re(`^(?:UPDATE|DELETE FROM|TRUNCATE(?: TABLE)?)(?: ONLY)? ([\w."]+)`), nil, "changes rows under one transaction; a backfill is a job"},
	{re(`^LOCK(?: TABLE)? ([\w."]+)`), nil, "stops the version before"},
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
	for _, s := range statements {
		if s.contract {
			continue
		}
		if concurrently.MatchString(s.text) && !noTransaction.MatchString(sql) {
			out = append(out, Finding{s.line, "CONCURRENTLY needs a file with '-- +goose NO TRANSACTION'"})
		}
		for _, r := range rules {
			m := r.match.FindStringSubmatch(s.text)
			if m == nil || own[table(m[1])] || r.unless != nil && r.unless.MatchString(s.text) {
				continue
			}
			out = append(out, Finding{s.line, fmt.Sprintf("%s %s", first(s.text), r.message)})
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
