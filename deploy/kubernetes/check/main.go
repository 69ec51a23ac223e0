package main

import (
	"flag"
	"fmt"
	"os"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func main() {
	schemas := flag.String("schemas", "", "directory with JSON schemas such as deployment-apps-v1.json")
	config := flag.String("settings", "", "what 'entrepot config show' prints")
	crd := flag.String("crd", "", "make the schemas of this CustomResourceDefinition in the directory of schemas, and end")
	flag.Parse()
	if *crd != "" {
		if err := writeCRDSchemas(*crd, *schemas); err != nil {
			fmt.Fprintln(os.Stderr, "k8s-check:", err)
			os.Exit(1)
		}
		return
	}
	if *schemas == "" || *config == "" || flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: check -schemas DIR -settings FILE KUSTOMIZATION…")
		os.Exit(2)
	}
	known, err := readSettings(*config)
	if err != nil {
		fmt.Fprintln(os.Stderr, "k8s-check:", err)
		os.Exit(1)
	}
	status := 0
	for _, dir := range flag.Args() {
		objects, err := render(dir)
		if err != nil {
			fmt.Fprintf(os.Stderr, "k8s-check: %s: %v\n", dir, err)
			os.Exit(1)
		}
		problems := check(objects, *schemas, known)
		for _, p := range problems {
			fmt.Fprintf(os.Stderr, "k8s-check: %s: %s\n", dir, p)
			status = 1
		}
		fmt.Printf("k8s-check: %s: %d objects, %d problems\n", dir, len(objects), len(problems))
	}
	os.Exit(status)
}

// object is a rendered Kubernetes object.
type object struct {
	kind, name string
	yaml       []byte
}

func (o object) String() string { return o.kind + "/" + o.name }

// render does what `kubectl kustomize` does.
func render(dir string) ([]object, error) {
	res, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	var out []object
	for _, r := range res.Resources() {
		data, err := r.AsYAML()
		if err != nil {
			return nil, err
		}
		out = append(out, object{kind: r.GetKind(), name: r.GetName(), yaml: data})
	}
	return out, nil
}

// check returns everything that is wrong with the objects.
func check(objects []object, schemas string, known *settings) []string {
	var problems []string
	problems = append(problems, conform(objects, schemas)...)
	decoded, bad := decode(objects)
	problems = append(problems, bad...)
	return append(problems, rules(decoded, known)...)
}
