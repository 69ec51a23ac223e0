// Command check renders kustomizations and checks every object of theirs three times over, without a cluster:
//
//   - against the JSON schemas of a Kubernetes release, strictly, as kubeconform does (schema.go);
//   - by decoding it into the API's Go types and refusing any field they do not have (decode.go): the schemas know nothing
//     of a misspelt field below an object that is open to any, the types nothing of a value's range;
//   - for what this deployment promises (rules.go): nothing runs as root or may become it, every process has probes, no
//     selector selects what it should not, no name points at nothing.
//
// scripts/k8s-check.sh fetches the schemas and calls it.
package main
