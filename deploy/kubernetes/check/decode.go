package main

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

// kinds are the types that this deployment uses; a new one is added here.
var kinds = map[string]func() any{
	"ConfigMap":               func() any { return new(corev1.ConfigMap) },
	"Deployment":              func() any { return new(appsv1.Deployment) },
	"HorizontalPodAutoscaler": func() any { return new(autoscalingv2.HorizontalPodAutoscaler) },
	"Ingress":                 func() any { return new(networkingv1.Ingress) },
	"Job":                     func() any { return new(batchv1.Job) },
	"Namespace":               func() any { return new(corev1.Namespace) },
	"NetworkPolicy":           func() any { return new(networkingv1.NetworkPolicy) },
	"PodDisruptionBudget":     func() any { return new(policyv1.PodDisruptionBudget) },
	"ScaledObject":            func() any { return new(scaledObject) },
	"Secret":                  func() any { return new(corev1.Secret) },
	"Service":                 func() any { return new(corev1.Service) },
	"ServiceAccount":          func() any { return new(corev1.ServiceAccount) },
	"StatefulSet":             func() any { return new(appsv1.StatefulSet) },
}

// decode turns objects into the API's types, by their names, and returns what did not fit.
func decode(objects []object) (decoded map[string]any, problems []string) {
	decoded = map[string]any{}
	for _, o := range objects {
		make, ok := kinds[o.kind]
		if !ok {
			problems = append(problems, fmt.Sprintf("%s: decode: no type for this kind; add it to kinds", o))
			continue
		}
		if decoded[o.String()] != nil {
			problems = append(problems, fmt.Sprintf("%s: twice", o))
		}
		v := make()
		if err := yaml.UnmarshalStrict(o.yaml, v, yaml.DisallowUnknownFields); err != nil {
			problems = append(problems, fmt.Sprintf("%s: decode: %v", o, err))
			continue
		}
		decoded[o.String()] = v
	}
	return decoded, problems
}
