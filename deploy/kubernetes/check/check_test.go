package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// problemsOf renders the example, changes every object, and returns what decoding and rules say. No schemas are needed.
func problemsOf(t *testing.T, change func(string) string) []string {
	t.Helper()
	objects, err := render("../overlays/example")
	if err != nil {
		t.Fatal(err)
	}
	changed := change == nil
	for i, o := range objects {
		if change != nil {
			text := change(string(o.yaml))
			changed = changed || text != string(o.yaml)
			objects[i].yaml = []byte(text)
		}
	}
	if !changed {
		t.Fatal("the change changed nothing")
	}
	decoded, problems := decode(objects)
	return append(problems, rules(decoded)...)
}

func TestTheDeploymentKeepsTheRules(t *testing.T) {
	for _, dir := range []string{"../base", "../overlays/example"} {
		objects, err := render(dir)
		if err != nil {
			t.Fatal(err)
		}
		decoded, problems := decode(objects)
		if problems = append(problems, rules(decoded)...); problems != nil {
			t.Errorf("%s:\n%s", dir, strings.Join(problems, "\n"))
		}
	}
}

func TestWhatIsWrongIsFound(t *testing.T) {
	replace := func(old, new string) func(string) string {
		return func(s string) string { return strings.ReplaceAll(s, old, new) }
	}
	for name, c := range map[string]struct {
		change func(string) string
		want   string
	}{
		"a misspelt field":              {replace("replicas:", "replcas:"), `unknown field "replcas"`},
		"a root account":                {replace("runAsUser: 65532", "runAsUser: 0"), "may run as root"},
		"a writable root":               {replace("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"), "can write to its image"},
		"a missing probe":               {replace("startupProbe:", "readinessProbe:"), "already set"},
		"variables of services":         {replace("enableServiceLinks: false", "enableServiceLinks: true"), "gets variables for each Service"},
		"a secret's key that is absent": {replace("nats-url: ", "nats-uri: "), "uses key nats-url"},
		"a wrong selector":              {replace("app.kubernetes.io/component: jobs\n", "app.kubernetes.io/component: sync\n"), "selects 2 deployments"},
		"a wrong port":                  {replace("targetPort: grpc", "targetPort: rpc"), "goes to rpc"},
		"a wrong target":                {replace("- channels-worker\n", "- sync-worker\n"), "not the target of its name"},
	} {
		t.Run(name, func(t *testing.T) {
			problems := strings.Join(problemsOf(t, c.change), "\n")
			if !strings.Contains(problems, c.want) {
				t.Errorf("not found: %q in\n%s", c.want, problems)
			}
		})
	}
}

func TestAKindWithoutATypeIsAProblem(t *testing.T) {
	_, problems := decode([]object{{kind: "Deploymint", name: "x", yaml: []byte("kind: Deploymint")}})
	if len(problems) != 1 || !strings.Contains(problems[0], "no type for this kind") {
		t.Errorf("%q", problems)
	}
}

// The schema is a small one of our own: what is tested is that it is found, applied strictly, and missed.
func TestObjectsAreHeldAgainstTheirSchemas(t *testing.T) {
	dir := t.TempDir()
	const schema = `{"type": "object", "additionalProperties": false, "properties": {
		"apiVersion": {}, "kind": {}, "metadata": {}, "spec": {"type": "object", "properties": {"clusterIP": {"enum": ["None"]}}}}}`
	if err := os.WriteFile(filepath.Join(dir, "service-v1.json"), []byte(schema), 0o600); err != nil {
		t.Fatal(err)
	}
	of := func(kind, more string) []object {
		return []object{{kind, "x", []byte("apiVersion: v1\nkind: " + kind + "\nmetadata: {name: x}\n" + more + "\n")}}
	}
	if got := conform(of("Service", "spec: {clusterIP: None}"), dir); got != nil {
		t.Errorf("a valid object: %v", got)
	}
	for _, bad := range [][]object{of("Service", "spec: {clusterIP: Some}"), of("Service", "sepc: {}"), of("Secret", "")} {
		if got := conform(bad, dir); len(got) != 1 {
			t.Errorf("%s: %v", bad[0].yaml, got)
		}
	}
}
