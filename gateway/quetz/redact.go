package quetz

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
)

// secretFields are fields of requests whose values are not repeated, whatever is wrong with them.
var secretFields = map[string]bool{
	"password": true, "api_key": true, "mirror_api_key": true, "token": true, "secret": true, "key": true, "access_key": true, "secret_key": true,
}

// withoutSecrets returns problems whose input, which pydantic repeats, holds no password and no token: answers end up in
// the logs of clients and of what stands between.
func withoutSecrets(problems invalidFields) []invalidField {
	out := make([]invalidField, len(problems))
	for i, p := range problems {
		last, _ := p.Loc[len(p.Loc)-1].(string)
		if len(p.Input) > maxInput {
			// A part of it is no JSON, and who reads a part cannot tell a secret.
			p.Input = json.RawMessage(fmt.Sprintf(`"(%d bytes, too long to repeat)"`, len(p.Input)))
		}
		p.Input = redactInput(last, p.Input)
		out[i] = p
	}
	return out
}

func redactInput(field string, raw json.RawMessage) json.RawMessage {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return raw // not from a client: those are JSON
	}
	clean, changed := redactValue(field, v)
	if !changed {
		return raw // byte for byte as it came
	}
	data, err := edge.MarshalJSON(clean)
	if err != nil {
		return json.RawMessage("null")
	}
	return data
}

func redactValue(field string, v any) (clean any, changed bool) {
	switch v := v.(type) {
	case string:
		if secretFields[strings.ToLower(field)] {
			return "***", true
		}
		if strings.Contains(v, "://") {
			s := fetch.Redact(v)
			return s, s != v
		}
	case []any:
		for i := range v {
			c, ch := redactValue(field, v[i])
			v[i], changed = c, changed || ch
		}
	case map[string]any:
		for k := range v {
			c, ch := redactValue(k, v[k])
			v[k], changed = c, changed || ch
		}
	}
	return v, changed
}
