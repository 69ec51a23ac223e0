package main

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"

	"github.com/yannh/kubeconform/pkg/validator"
)

// conform checks objects against JSON schemas. An object without a schema is a problem too: nobody would have looked at it.
func conform(objects []object, schemas string) []string {
	v, err := validator.New([]string{filepath.Join(schemas, "{{ .ResourceKind }}{{ .KindSuffix }}.json")}, validator.Opts{Strict: true})
	if err != nil {
		return []string{err.Error()}
	}
	var problems []string
	for _, o := range objects {
		for _, r := range v.Validate(o.String(), io.NopCloser(bytes.NewReader(o.yaml))) {
			if r.Status != validator.Valid {
				problems = append(problems, fmt.Sprintf("%s: schema: %v", o, r.Err))
			}
		}
	}
	return problems
}
