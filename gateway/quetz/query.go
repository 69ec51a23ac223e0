package quetz

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// tolerantQuery gives the gateway the query as it reads it.
func tolerantQuery(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := normaliseQuery(r); err != nil {
			writeError(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// normaliseQuery spells query booleans as grpc-gateway reads them, drops empty values, which mean absent here, and
// reports numbers that are none.
func normaliseQuery(r *http.Request) error {
	q := r.URL.Query()
	changed := false
	for _, name := range slices.Sorted(maps.Keys(q)) { // of several that are wrong the same one is told each time
		values := q[name]
		switch {
		case len(values) == 1 && values[0] == "":
			q.Del(name)
			changed = true
		case name == "skip" || name == "limit":
			if _, err := strconv.ParseInt(values[0], 10, 64); err != nil {
				return queryProblem(name, "int_parsing", "Input should be a valid integer, unable to parse string as an integer", values[0])
			}
		case name == "public" || name == "force" || name == "register_mirror":
			b, err := parseBool(values[0])
			if err != nil {
				return queryProblem(name, "bool_parsing", "Input should be a valid boolean, unable to interpret input", values[0])
			}
			q.Set(name, strconv.FormatBool(b))
			changed = true
		}
	}
	if changed {
		r.URL.RawQuery = q.Encode()
	}
	return nil
}

func queryProblem(name, typ, msg, input string) error {
	return partProblem("query", name, typ, msg, input)
}

func pathProblem(name, typ, msg, input string) error {
	return partProblem("path", name, typ, msg, input)
}

func partProblem(part, name, typ, msg, input string) error {
	raw, _ := json.Marshal(input) // of a string it never fails
	return invalidFields{{Type: typ, Loc: []any{part, name}, Msg: msg, Input: raw}}
}

func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "1", "true", "t", "yes", "y", "on":
		return true, nil
	case "0", "false", "f", "no", "n", "off":
		return false, nil
	}
	return false, fault.New(fault.Invalid, "not a boolean: %q", s)
}

// queryBool reads a boolean of the query; absent and empty give def.
func queryBool(r *http.Request, name string, def bool) (bool, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return def, nil
	}
	b, err := parseBool(s)
	if err != nil {
		return false, queryProblem(name, "bool_parsing", "Input should be a valid boolean, unable to interpret input", s)
	}
	return b, nil
}
