"""Takes the schemas of one Kubernetes release out of the kubernetes-validate package, in the form that kubeconform reads.

usage: schemas.py WHEEL RELEASE DIRECTORY
"""
import json
import pathlib
import sys
import zipfile

wheel, release, out = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
prefix = f"kubernetes_validate/kubernetes-json-schema/{release}-local-strict/"
kinds = ["_definitions", "configmap-v1", "deployment-apps-v1", "ingress-networking-v1", "job-batch-v1", "namespace-v1",
         "poddisruptionbudget-policy-v1", "secret-v1", "service-v1", "statefulset-apps-v1", "networkpolicy-networking-v1",
         "horizontalpodautoscaler-autoscaling-v2", "serviceaccount-v1"]
out.mkdir(parents=True, exist_ok=True)
with zipfile.ZipFile(wheel) as z:
    for kind in kinds:
        # References there go through the package's own resolver; here they are files side by side.
        text = z.read(f"{prefix}{kind}.json").decode().replace('"/api/_definitions.json#', '"_definitions.json#')
        schema = json.loads(text)
        schema.pop("$id", None)
        (out / f"{kind}.json").write_text(json.dumps(schema))
