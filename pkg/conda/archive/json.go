package archive

import (
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// decodeJSON reads one metadata file. It refuses what decoders disagree about:
// duplicate keys, invalid UTF-8, a second value, keys that differ by case; and
// what exhausts some of them: deep nesting.
func decodeJSON(member string, data []byte, lim Limits, into any) error {
	if depth := jsonDepth(data, lim.MaxDepth); depth > lim.MaxDepth {
		return refuse(member, "", "the JSON nests deeper than %d levels", lim.MaxDepth)
	}
	if err := json.Unmarshal(data, into); err != nil {
		var field string
		if se, ok := err.(*json.SemanticError); ok {
			field = pointerField(se.JSONPointer)
		}
		return &Error{Member: member, Field: field, Msg: "cannot be read", Err: err}
	}
	return nil
}

// pointerField turns /depends/3 into depends.
func pointerField(p jsontext.Pointer) string {
	for token := range p.Tokens() {
		return token
	}
	return ""
}

// jsonDepth counts brackets outside strings. It needs no valid JSON, and stops
// at the limit.
func jsonDepth(data []byte, most int) int {
	depth, deepest, inString := 0, 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString:
			if c == '\\' {
				i++
			} else if c == '"' {
				inString = false
			}
		case c == '"':
			inString = true
		case c == '{' || c == '[':
			if depth++; depth > deepest {
				if deepest = depth; deepest > most {
					return deepest
				}
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}
