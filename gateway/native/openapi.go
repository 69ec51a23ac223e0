package native

import (
	"encoding/json"
	"fmt"

	"github.com/entrepot-dev/entrepot/proto/openapi"
)

// description completes the generated OpenAPI document with what the protos do not say: title, version, how to log
// in, and the raw routes.
func description(version string) ([]byte, error) {
	var doc map[string]any
	if err := json.Unmarshal(openapi.Document, &doc); err != nil {
		return nil, fmt.Errorf("the OpenAPI document is not JSON: %w", err)
	}
	doc["info"] = map[string]any{
		"title": "Entrepot", "version": version,
		"description": "Native REST API under /entrepot/v1 and the JSON routes of the Quetz dialect under /api. " +
			"Packages are served under /channels/<channel>/… and /get/<channel>/….",
	}
	doc["securityDefinitions"] = map[string]any{
		"key":    map[string]any{"type": "apiKey", "in": "header", "name": "X-API-Key"},
		"bearer": map[string]any{"type": "apiKey", "in": "header", "name": "Authorization", "description": "Bearer <API key>"},
	}
	doc["security"] = []any{map[string]any{"key": []any{}}, map[string]any{"bearer": []any{}}}
	paths, _ := doc["paths"].(map[string]any)
	parameter := func(name, in, about string) map[string]any {
		return map[string]any{"name": name, "in": in, "required": in == "path", "type": "string", "description": about}
	}
	paths[Prefix+"/jobs/{id}/events"] = map[string]any{"get": map[string]any{
		"summary": "Follow a job as server-sent events", "operationId": "JobService_WatchJob", "tags": []any{"JobService"},
		"produces":   []any{"text/event-stream"},
		"parameters": []any{parameter("id", "path", "UUID or number of the job."), parameter("Last-Event-ID", "header", "Resume after this event.")},
		"responses":  map[string]any{"200": map[string]any{"description": "Events named state, progress and log; the data is a JobEvent."}},
	}}
	paths[Prefix+"/channels/{channel}/uploads/{filename}"] = map[string]any{"put": map[string]any{
		"summary": "Upload a package file", "operationId": "Upload", "tags": []any{"ChannelService"},
		"consumes": []any{"application/octet-stream"},
		"parameters": []any{
			parameter("channel", "path", "Name of the channel."), parameter("filename", "path", "<name>-<version>-<build>.conda or .tar.bz2"),
			parameter("sha256", "query", "Refuse the upload if its bytes have another SHA-256."), parameter("force", "query", "Replace a file of the same name."),
		},
		"responses": map[string]any{
			"201": map[string]any{"description": "Published; the body is the File."},
			"200": map[string]any{"description": "The channel has these very bytes already; nothing changed."},
		},
	}}
	paths[Prefix+"/channels/{channel}/imports"] = map[string]any{"post": map[string]any{
		"summary": "Publish a batch of packages with their records", "operationId": "Import", "tags": []any{"ChannelService"},
		"consumes":   []any{"multipart/form-data"},
		"parameters": []any{parameter("channel", "path", "Name of the channel.")},
		"responses":  map[string]any{"200": map[string]any{"description": "What became of each package of the batch."}},
	}}
	for path, item := range loginPaths() {
		paths[path] = item
	}
	return json.Marshal(doc)
}
