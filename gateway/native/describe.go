package native

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/entrepot-dev/entrepot/gateway/edge"
)

var pathVariable = regexp.MustCompile(`\{([a-z_]+)(\.\.\.)?\}`)

// Describe returns the description of the native API (and of the dialects' routes that come from protos) with the other
// routes of the dialects added: their paths and what they are for. What they take and answer is the dialects' own.
func Describe(version string, dialects ...*edge.Dialect) (http.Handler, error) {
	data, err := description(version)
	if err != nil {
		return nil, err
	}
	var doc map[string]any
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("the OpenAPI document is not JSON: %w", err)
	}
	paths, _ := doc["paths"].(map[string]any)
	for _, d := range dialects {
		for _, r := range d.Routes {
			path := strings.ReplaceAll(r.Pattern, "...}", "}")
			item, _ := paths[path].(map[string]any)
			if item == nil {
				item = map[string]any{}
				paths[path] = item
			}
			method := strings.ToLower(r.Method)
			if item[method] != nil {
				continue
			}
			parameters := []any{}
			for _, m := range pathVariable.FindAllStringSubmatch(r.Pattern, -1) {
				parameters = append(parameters, map[string]any{"name": m[1], "in": "path", "required": true, "type": "string"})
			}
			item[method] = map[string]any{
				"summary": strings.ToUpper(r.Summary[:1]) + r.Summary[1:], "tags": []any{d.Name}, "parameters": parameters,
				"operationId": d.Name + "_" + method + strings.NewReplacer("/", "_", "{", "", "}", "", "-", "_").Replace(path),
				"responses":   map[string]any{"default": map[string]any{"description": "As the dialect has it."}},
			}
		}
	}
	if data, err = json.Marshal(doc); err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(data)
	}), nil
}
