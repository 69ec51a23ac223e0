package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// known are the settings of the platform of this checkout; K8S_CHECK_SETTINGS names a file that has them already.
var known = sync.OnceValues(func() (*settings, error) {
	if path := os.Getenv("K8S_CHECK_SETTINGS"); path != "" {
		return readSettings(path)
	}
	file, err := os.CreateTemp("", "settings-*.yaml")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	cmd := exec.Command("go", "-C", "../../..", "run", "./services/cmd/entrepot", "config", "show")
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "ENTREPOT_") && !strings.HasPrefix(v, "GOWORK=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Stdout, cmd.Stderr = file, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("entrepot config show: %w", err)
	}
	return readSettings(file.Name())
})

var renderings = map[string][]object{}

// rendered is render, once for each directory; its caller may change what it gets.
func rendered(dir string) ([]object, error) {
	if renderings[dir] == nil {
		objects, err := render(dir)
		if err != nil {
			return nil, err
		}
		renderings[dir] = objects
	}
	return slices.Clone(renderings[dir]), nil
}

// problemsOf renders a kustomization, changes every object, and returns what decoding and rules say. No schemas are needed.
func problemsOf(t *testing.T, dir string, change func(string) string) []string {
	t.Helper()
	objects, err := rendered(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := known()
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
	return append(problems, rules(decoded, s)...)
}

const (
	example = "../overlays/example"
	scaled  = "../overlays/autoscaled"
	demo    = "../overlays/demo"
)

func TestTheDeploymentKeepsTheRules(t *testing.T) {
	for _, dir := range []string{"../base", example, scaled, demo} {
		if problems := problemsOf(t, dir, nil); problems != nil {
			t.Errorf("%s:\n%s", dir, strings.Join(problems, "\n"))
		}
	}
}

func TestWhatIsWrongIsFound(t *testing.T) {
	replace := func(old, new string) func(string) string {
		return func(s string) string { return strings.ReplaceAll(s, old, new) }
	}
	// in changes the object with this kind and name only.
	in := func(kind, name, old, new string) func(string) string {
		return func(s string) string {
			if strings.Contains(s, "\nkind: "+kind+"\n") && strings.Contains(s, "\n  name: "+name+"\n") {
				return strings.ReplaceAll(s, old, new)
			}
			return s
		}
	}
	for name, c := range map[string]struct {
		dir    string
		change func(string) string
		want   string
	}{
		"a misspelt field":              {example, replace("replicas:", "replcas:"), `unknown field "replcas"`},
		"a root account":                {example, replace("runAsUser: 65532", "runAsUser: 0"), "may run as root"},
		"a writable root":               {example, replace("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"), "can write to its image"},
		"a missing probe":               {example, replace("startupProbe:", "readinessProbe:"), "already set"},
		"variables of services":         {example, replace("enableServiceLinks: false", "enableServiceLinks: true"), "gets variables for each Service"},
		"a secret's key that is absent": {example, replace("nats-url: ", "nats-uri: "), "uses key nats-url"},
		"a wrong selector":              {example, replace("app.kubernetes.io/component: jobs\n", "app.kubernetes.io/component: sync\n"), "selects 2 deployments"},
		"a wrong port":                  {example, replace("targetPort: grpc", "targetPort: rpc"), "goes to rpc"},
		"a wrong target":                {example, replace("- channels-worker\n", "- sync-worker\n"), "not the target of its name"},
		"a token":                       {example, in("ServiceAccount", "entrepot", "Token: false", "Token: true"), "hands out tokens"},
		"an account that is absent":     {example, replace("serviceAccountName: entrepot", "serviceAccountName: entrepod"), "runs under account entrepod"},
		"a hasty stop":                  {example, replace("terminationGracePeriodSeconds: 120", "terminationGracePeriodSeconds: 45"), "less than 120 s"},
		"no CPU requested":              {example, replace("cpu: 100m", "ephemeral-storage: 1Gi"), "requests no CPU"},
		"a probe of no port":            {example, replace("port: ops", "port: opps"), "asks port opps"},

		"a variable that is no setting":      {example, replace("ENTREPOT_NATS_URL", "ENTREPOT_NATS_URI"), "nats_uri is no setting"},
		"a variable below one that has none": {example, replace("ENTREPOT_NATS_URL", "ENTREPOT_NATS_URL__HOST"), "nats_url has nothing below it"},
		"a setting that is none":             {example, replace("database_conns", "database_cons"), "database_cons is no setting"},
		"a fetch plane that is elsewhere":    {example, replace("http://sync:9092", "http://storage-data:9092"), "which leads to storage"},
		"a port where nobody listens":        {example, replace("containerPort: 9091", "containerPort: 9099"), "where target channels does not listen"},
		"a data port of another target":      {example, in("Deployment", "jobs", "containerPort: 9091", "containerPort: 9092"), "where target jobs does not listen"},
		"no master key":                      {example, in("Deployment", "sync-worker", "ENTREPOT_MASTER_KEY_FILE", "ENTREPOT_TLS_KEY"), "Deployment/sync-worker: has the master key: false"},
		"a master key too many":              {example, in("Deployment", "gateway", "name: ENTREPOT_CONFIG", "name: ENTREPOT_MASTER_KEY_FILE"), "Deployment/gateway: has the master key: true"},
		"a master key of another form":       {demo, replace("master-key: |\n    ", "master-key: |\n    Njk2"), "master-key has not the form"},

		"nothing refused by default":      {example, in("NetworkPolicy", "default-deny", "  - Egress\n", ""), "refuses by default"},
		"a policy for nobody":             {example, in("NetworkPolicy", "gateway", "app.kubernetes.io/component: gateway", "app.kubernetes.io/component: gate"), "selects no pods"},
		"a policy for a port of nobody":   {example, in("NetworkPolicy", "gateway", "port: 9090", "port: 9099"), "lets in to Deployment/gateway at port 9099"},
		"a policy to a port of nobody":    {example, in("NetworkPolicy", "callers", "port: 9091", "port: 9092"), "leads to Deployment/channels at port 9092"},
		"a misspelt one among many":       {example, in("NetworkPolicy", "services", "- gateway", "- gatewy"), "component gatewy"},
		"a service that nobody may reach": {example, in("NetworkPolicy", "data", "port: 9092", "port: 9091"), "is served at port 9092, and no NetworkPolicy"},
		"a way out to everywhere":         {example, in("NetworkPolicy", "dns", "to:", "tto:"), `unknown field`},
		"a target without a policy":       {example, in("NetworkPolicy", "services", "- jobs\n", "- sync\n"), "Deployment/jobs: is served at port 9091, and no NetworkPolicy lets anybody in"},

		"an autoscaler of nobody":            {example, in("HorizontalPodAutoscaler", "gateway", "name: gateway", "name: gatewy"), "scales Deployment gatewy"},
		"an autoscaler against replicas":     {example, in("Deployment", "gateway", "spec:\n  selector:", "spec:\n  replicas: 2\n  selector:"), "sets its replicas itself"},
		"an autoscaler without measure":      {example, in("Deployment", "gateway", "cpu: 500m", "ephemeral-storage: 1Gi"), "measures the use of cpu"},
		"no disruption budget":               {example, in("PodDisruptionBudget", "sync", "component: sync", "component: sink"), "no PodDisruptionBudget keeps one"},
		"a misspelt field of KEDA":           {scaled, replace("maxReplicaCount:", "maxReplicas:"), `unknown field "maxReplicas"`},
		"a pool that is absent":              {scaled, replace("/demand/sync-worker", "/demand/sink-worker"), "asks for /demand/sink-worker, but scales sync-worker"},
		"a scaled deployment that is none":   {scaled, in("ScaledObject", "sync-worker", "scaleTargetRef:\n    name: sync-worker", "scaleTargetRef:\n    name: sink"), "scales Deployment sink"},
		"demand from another port":           {scaled, replace("svc:9100", "svc:9101"), "asks port 9101"},
		"demand from another namespace":      {scaled, replace(".entrepot.svc", ".other.svc"), "not in namespace entrepot"},
		"demand from another target":         {scaled, in("Service", "jobs-demand", "component: jobs", "component: sync"), "asks sync, not jobs"},
		"a number that demand does not have": {scaled, replace("valueLocation: demand", "valueLocation: length"), "reads length"},
		"a store without a probe":            {demo, in("StatefulSet", "nats", "livenessProbe:", "readinessProbe:"), "already set"},
		"a store that may be reached by all": {demo, in("NetworkPolicy", "postgres", "port: 5432", "port: 5433"), "lets in to StatefulSet/postgres at port 5433"},
		"a store's volume that is absent":    {demo, in("StatefulSet", "s3", "- metadata:\n      name: data\n", "- metadata:\n      name: date\n"), "mounts data, which is not there"},
	} {
		t.Run(name, func(t *testing.T) {
			problems := strings.Join(problemsOf(t, c.dir, c.change), "\n")
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

func TestADefinitionBecomesAStrictSchema(t *testing.T) {
	dir := t.TempDir()
	const crd = `
kind: CustomResourceDefinition
spec:
  group: example.org
  names: {kind: Thing}
  versions:
    - name: v1
      schema:
        openAPIV3Schema:
          type: object
          properties:
            apiVersion: {type: string}
            kind: {type: string}
            metadata: {type: object}
            spec:
              type: object
              required: [size]
              properties:
                size: {type: integer}
                free: {type: object, additionalProperties: {type: string}}
                kept: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {a: {type: string}}}
`
	path := filepath.Join(dir, "crd.yaml")
	if err := os.WriteFile(path, []byte(crd), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeCRDSchemas(path, dir); err != nil {
		t.Fatal(err)
	}
	for spec, ok := range map[string]bool{
		"{size: 1}":                     true,
		"{size: 1, free: {a: b}}":       true,
		"{size: 1, kept: {a: b, c: d}}": true,
		"{size: one}":                   false,
		"{siez: 1, size: 1}":            false,
		"{}":                            false,
	} {
		o := object{"Thing", "x", []byte("apiVersion: example.org/v1\nkind: Thing\nmetadata: {name: x}\nspec: " + spec + "\n")}
		if got := conform([]object{o}, dir); (got == nil) != ok {
			t.Errorf("%s: %v", spec, got)
		}
	}
	if err := writeCRDSchemas("check_test.go", dir); err == nil {
		t.Error("a file that is no definition is taken for one")
	}
}
