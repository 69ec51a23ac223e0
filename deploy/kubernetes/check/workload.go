package main

import (
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The labels by which pods are told apart.
const (
	component = "app.kubernetes.io/component"
	partOf    = "app.kubernetes.io/part-of"
)

// workload is what pods are made by.
type workload struct {
	kind, name string
	labels     map[string]string
	ports      map[string]int32
	// served are the ports that Services lead to.
	served []int32
}

func (w workload) String() string { return w.kind + "/" + w.name }

// ours is false for what only stands beside the platform, such as a database for trying it out.
func (w workload) ours() bool { return w.labels[partOf] == "entrepot" }

// number returns the number of a port, 0 if the workload does not have it.
func (w workload) number(port *intstr.IntOrString) int32 {
	switch {
	case port == nil:
		return 0
	case port.Type == intstr.String:
		return w.ports[port.StrVal]
	}
	for _, n := range w.ports {
		if n == port.IntVal {
			return n
		}
	}
	return 0
}

func (w workload) has(port *intstr.IntOrString) bool { return w.number(port) != 0 }

// workloads returns all of them, by name.
func (r *ruler) workloads() []workload {
	var out []workload
	add := func(kind, name string, t corev1.PodTemplateSpec) {
		w := workload{kind: kind, name: name, labels: t.Labels, ports: map[string]int32{}}
		for _, c := range t.Spec.Containers {
			for _, p := range c.Ports {
				w.ports[p.Name] = p.ContainerPort
			}
		}
		for _, o := range r.objects {
			if s, ok := o.(*corev1.Service); ok && len(s.Spec.Selector) > 0 && includes(t.Labels, s.Spec.Selector) {
				for _, p := range s.Spec.Ports {
					w.served = append(w.served, w.number(&p.TargetPort))
				}
			}
		}
		slices.Sort(w.served)
		out = append(out, w)
	}
	for _, o := range r.objects {
		switch o := o.(type) {
		case *appsv1.Deployment:
			add("Deployment", o.Name, o.Spec.Template)
		case *appsv1.StatefulSet:
			add("StatefulSet", o.Name, o.Spec.Template)
		case *batchv1.Job:
			add("Job", o.Name, o.Spec.Template)
		}
	}
	slices.SortFunc(out, func(a, b workload) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// pods returns the workloads whose pods a selector selects.
func (r *ruler) pods(s *metav1.LabelSelector) []workload {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		r.want(false, "selector: %v", err)
		return nil
	}
	var out []workload
	for _, w := range r.workloads() {
		if selector.Matches(labels.Set(w.labels)) {
			out = append(out, w)
		}
	}
	return out
}
