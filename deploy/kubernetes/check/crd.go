package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// writeCRDSchemas writes the schema of each version of a CustomResourceDefinition into dir, strictly: a field that it does
// not name is refused, unless it says that it keeps unknown ones.
func writeCRDSchemas(path, dir string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var crd struct {
		Spec struct {
			Group    string `json:"group"`
			Names    struct{ Kind string }
			Versions []struct {
				Name   string `json:"name"`
				Schema struct {
					OpenAPIV3Schema map[string]any `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(data, &crd); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if crd.Spec.Names.Kind == "" || len(crd.Spec.Versions) == 0 {
		return fmt.Errorf("%s: no CustomResourceDefinition", path)
	}
	group, _, _ := strings.Cut(crd.Spec.Group, ".")
	for _, v := range crd.Spec.Versions {
		if v.Schema.OpenAPIV3Schema == nil {
			return fmt.Errorf("%s: version %s has no schema", path, v.Name)
		}
		strict(v.Schema.OpenAPIV3Schema)
		out, err := json.Marshal(v.Schema.OpenAPIV3Schema)
		if err != nil {
			return err
		}
		// The name by which kubeconform looks for it.
		name := strings.ToLower(crd.Spec.Names.Kind) + "-" + group + "-" + v.Name + ".json"
		if err := os.WriteFile(filepath.Join(dir, name), out, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// strict closes every object of a schema that lists its properties. What the API server knows by itself stays open: the
// metadata, which has no properties here.
func strict(schema map[string]any) {
	for key, v := range schema {
		switch v := v.(type) {
		case map[string]any:
			if key == "properties" || key == "patternProperties" {
				for _, p := range v {
					if p, ok := p.(map[string]any); ok {
						strict(p)
					}
				}
				continue
			}
			strict(v)
		case []any:
			for _, p := range v {
				if p, ok := p.(map[string]any); ok {
					strict(p)
				}
			}
		}
	}
	if schema["x-kubernetes-int-or-string"] == true {
		delete(schema, "type")
	}
	_, listed := schema["properties"]
	_, open := schema["additionalProperties"]
	if listed && !open && schema["x-kubernetes-preserve-unknown-fields"] != true {
		schema["additionalProperties"] = false
	}
}
