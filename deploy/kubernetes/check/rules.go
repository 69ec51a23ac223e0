package main

import (
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
)

// rules checks what no schema can know.
func rules(objects map[string]any) []string {
	r := ruler{objects: objects}
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		r.of = name
		switch o := objects[name].(type) {
		case *appsv1.Deployment:
			r.deployment(o)
		case *batchv1.Job:
			r.pod(o.Spec.Template.Spec)
		case *corev1.Service:
			r.service(o)
		case *policyv1.PodDisruptionBudget:
			r.selected(o.Spec.Selector.MatchLabels)
		}
	}
	return r.problems
}

type ruler struct {
	objects  map[string]any
	of       string
	problems []string
}

func (r *ruler) want(ok bool, format string, args ...any) {
	if !ok {
		r.problems = append(r.problems, r.of+": "+fmt.Sprintf(format, args...))
	}
}

func (r *ruler) deployment(d *appsv1.Deployment) {
	r.want(len(d.Spec.Selector.MatchLabels) > 0 && includes(d.Spec.Template.Labels, d.Spec.Selector.MatchLabels), "does not select its own pods")
	var same []string
	for name, o := range r.objects {
		if other, ok := o.(*appsv1.Deployment); ok && includes(other.Spec.Template.Labels, d.Spec.Selector.MatchLabels) {
			same = append(same, name)
		}
	}
	r.want(len(same) == 1, "selects the pods of %v", same)
	r.pod(d.Spec.Template.Spec)
	for _, c := range d.Spec.Template.Spec.Containers {
		r.want(c.StartupProbe != nil && c.LivenessProbe != nil && c.ReadinessProbe != nil, "container %s lacks a probe", c.Name)
		r.want(len(c.Args) == 3 && c.Args[0] == "serve" && c.Args[1] == "--target" && c.Args[2] == d.Name, "runs %q, not the target of its name", c.Args)
	}
}

// pod checks what the "restricted" Pod Security Standard asks for, a read-only root on top of it, and the names inside.
func (r *ruler) pod(p corev1.PodSpec) {
	s := p.SecurityContext
	r.want(s != nil && s.RunAsNonRoot != nil && *s.RunAsNonRoot && s.RunAsUser != nil && *s.RunAsUser != 0, "may run as root")
	r.want(s != nil && s.SeccompProfile != nil && s.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault, "has no seccomp profile")
	r.want(p.AutomountServiceAccountToken != nil && !*p.AutomountServiceAccountToken, "gets a token for the cluster")
	r.want(p.EnableServiceLinks != nil && !*p.EnableServiceLinks, "gets variables for each Service, which the configuration refuses")
	r.want(!p.HostNetwork && !p.HostPID && !p.HostIPC, "shares a namespace with its node")
	volumes := map[string]bool{}
	for _, v := range p.Volumes {
		volumes[v.Name] = true
		r.want(v.HostPath == nil, "mounts %s from its node", v.Name)
		if v.ConfigMap != nil {
			r.want(r.objects["ConfigMap/"+v.ConfigMap.Name] != nil, "mounts ConfigMap %s, which is not there", v.ConfigMap.Name)
		}
		if v.Secret != nil {
			for _, i := range v.Secret.Items {
				r.secret(v.Secret.SecretName, i.Key)
			}
		}
	}
	for _, c := range p.Containers {
		sc := c.SecurityContext
		r.want(sc != nil && sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation, "container %s may become root", c.Name)
		r.want(sc != nil && sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem, "container %s can write to its image", c.Name)
		r.want(sc != nil && sc.Capabilities != nil && slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) && len(sc.Capabilities.Add) == 0, "container %s has capabilities", c.Name)
		r.want(c.Image != "" && c.Image != "entrepot", "container %s has no image with a tag", c.Name)
		r.want(!c.Resources.Requests.Memory().IsZero() && !c.Resources.Limits.Memory().IsZero(), "container %s has no bounds of memory", c.Name)
		for _, m := range c.VolumeMounts {
			r.want(volumes[m.Name], "container %s mounts %s, which is not there", c.Name, m.Name)
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				r.secret(e.ValueFrom.SecretKeyRef.Name, e.ValueFrom.SecretKeyRef.Key)
			}
		}
	}
}

// secret checks a key, if the Secret is part of the kustomization; the base leaves that to its users.
func (r *ruler) secret(name, key string) {
	s, ok := r.objects["Secret/"+name].(*corev1.Secret)
	if !ok {
		r.want(name == "entrepot", "uses Secret %s, which is not there", name)
		return
	}
	_, data := s.Data[key]
	_, text := s.StringData[key]
	r.want(data || text, "uses key %s, which Secret %s does not have", key, name)
}

// service checks that a Service reaches exactly one Deployment, by ports that it names.
func (r *ruler) service(s *corev1.Service) {
	d := r.selected(s.Spec.Selector)
	if d == nil {
		return
	}
	ports := map[string]int32{}
	for _, c := range d.Spec.Template.Spec.Containers {
		for _, p := range c.Ports {
			ports[p.Name] = p.ContainerPort
		}
	}
	for _, p := range s.Spec.Ports {
		target, ok := ports[p.TargetPort.StrVal]
		r.want(ok, "port %s goes to %s, which deployment %s does not have", p.Name, p.TargetPort.StrVal, d.Name)
		// A name without a cluster address leads to the pods themselves: nothing translates the port.
		r.want(s.Spec.ClusterIP != corev1.ClusterIPNone || target == p.Port, "is headless, but port %d is %d in the pods", p.Port, target)
	}
}

// selected returns the only deployment whose pods the labels select.
func (r *ruler) selected(labels map[string]string) *appsv1.Deployment {
	var found []*appsv1.Deployment
	for _, o := range r.objects {
		if d, ok := o.(*appsv1.Deployment); ok && len(labels) > 0 && includes(d.Spec.Template.Labels, labels) {
			found = append(found, d)
		}
	}
	r.want(len(found) == 1, "selects %d deployments, not one", len(found))
	if len(found) != 1 {
		return nil
	}
	return found[0]
}

func includes(have, want map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}
