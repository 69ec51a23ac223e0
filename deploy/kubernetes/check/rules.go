package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// rules checks what no schema can know.
func rules(objects map[string]any, s *settings) []string {
	r := ruler{objects: objects, settings: s}
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		r.of = name
		switch o := objects[name].(type) {
		case *appsv1.Deployment:
			r.deployment(o)
		case *appsv1.StatefulSet:
			r.statefulSet(o)
		case *batchv1.Job:
			r.pod(o.Spec.Template.Spec)
		case *corev1.ConfigMap:
			r.configFile(o)
		case *corev1.Secret:
			r.keys(o)
		case *corev1.Service:
			r.service(o)
		case *policyv1.PodDisruptionBudget:
			r.selected(o.Spec.Selector.MatchLabels)
		case *networkingv1.NetworkPolicy:
			r.policy(o)
		case *autoscalingv2.HorizontalPodAutoscaler:
			r.autoscaler(o)
		case *scaledObject:
			r.scaledObject(o)
		}
	}
	r.covered()
	return r.problems
}

type ruler struct {
	objects  map[string]any
	settings *settings
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
		r.probed(c)
		r.want(len(c.Args) == 3 && c.Args[0] == "serve" && c.Args[1] == "--target" && c.Args[2] == d.Name, "runs %q, not the target of its name", c.Args)
		r.want(d.Spec.Template.Labels[component] == d.Name, "is component %s", d.Spec.Template.Labels[component])
		_, key := variable(c, "ENTREPOT_MASTER_KEY_FILE")
		r.want(key == slices.Contains(sealing, d.Name), "has the master key: %v, and needs it: %v", key, !key)
	}
	replicas := int32(1)
	if d.Spec.Replicas != nil {
		replicas = *d.Spec.Replicas
	}
	r.want(replicas < 2 || slices.ContainsFunc(r.budgets(), func(b *policyv1.PodDisruptionBudget) bool {
		return includes(d.Spec.Template.Labels, b.Spec.Selector.MatchLabels)
	}), "has %d replicas, and no PodDisruptionBudget keeps one of them", replicas)
	want := int64(30)
	switch {
	case d.Name == "gateway":
		want = 60
	case strings.HasSuffix(d.Name, "-worker"):
		want = 120
	}
	grace := d.Spec.Template.Spec.TerminationGracePeriodSeconds
	r.want(grace != nil && *grace >= want, "has less than %d s to stop in order", want)
}

// sealing are the targets that open what the master key seals; the others must not have it.
var sealing = []string{"identity", "storage", "sync", "sync-worker", "channels", "channels-worker"}

func variable(c corev1.Container, name string) (value string, ok bool) {
	for _, e := range c.Env {
		if e.Name == name {
			return e.Value, true
		}
	}
	return "", false
}

func (r *ruler) budgets() []*policyv1.PodDisruptionBudget {
	var out []*policyv1.PodDisruptionBudget
	for _, o := range r.objects {
		if b, ok := o.(*policyv1.PodDisruptionBudget); ok {
			out = append(out, b)
		}
	}
	return out
}

func (r *ruler) probed(c corev1.Container) {
	r.want(c.StartupProbe != nil && c.LivenessProbe != nil && c.ReadinessProbe != nil, "container %s lacks a probe", c.Name)
	for _, p := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		if p != nil && p.HTTPGet != nil {
			ok := slices.ContainsFunc(c.Ports, func(have corev1.ContainerPort) bool {
				return have.Name == p.HTTPGet.Port.StrVal || have.ContainerPort == p.HTTPGet.Port.IntVal
			})
			r.want(ok, "a probe of container %s asks port %s, which it does not have", c.Name, p.HTTPGet.Port.String())
		}
	}
}

// statefulSet checks the stores that come along for trying the platform out.
func (r *ruler) statefulSet(s *appsv1.StatefulSet) {
	r.want(len(s.Spec.Selector.MatchLabels) > 0 && includes(s.Spec.Template.Labels, s.Spec.Selector.MatchLabels), "does not select its own pods")
	svc, ok := r.objects["Service/"+s.Spec.ServiceName].(*corev1.Service)
	r.want(ok && svc.Spec.ClusterIP == corev1.ClusterIPNone && includes(s.Spec.Template.Labels, svc.Spec.Selector), "has no headless Service %s of its own", s.Spec.ServiceName)
	pod := s.Spec.Template.Spec
	for _, c := range s.Spec.VolumeClaimTemplates {
		pod.Volumes = append(pod.Volumes[:len(pod.Volumes):len(pod.Volumes)], corev1.Volume{Name: c.Name})
	}
	r.pod(pod)
	for _, c := range pod.Containers {
		r.probed(c)
	}
}

// keys checks the form of secrets that are there and filled in: the processes would refuse them one after the other.
func (r *ruler) keys(s *corev1.Secret) {
	for key, form := range map[string]*regexp.Regexp{
		"master-key": regexp.MustCompile(`^[0-9a-f]{64}$`), "admin-key": regexp.MustCompile(`^[0-9A-Za-z]{46}$`),
	} {
		if v, ok := s.Data[key]; ok && len(v) > 0 {
			r.want(form.Match(v), "%s has not the form %s", key, form)
		}
	}
}

// pod checks what the "restricted" Pod Security Standard asks for, a read-only root on top of it, and the names inside.
func (r *ruler) pod(p corev1.PodSpec) {
	s := p.SecurityContext
	r.want(s != nil && s.RunAsNonRoot != nil && *s.RunAsNonRoot && s.RunAsUser != nil && *s.RunAsUser != 0, "may run as root")
	r.want(s != nil && s.SeccompProfile != nil && s.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault, "has no seccomp profile")
	r.want(p.AutomountServiceAccountToken != nil && !*p.AutomountServiceAccountToken, "gets a token for the cluster")
	if p.ServiceAccountName != "" {
		a, ok := r.objects["ServiceAccount/"+p.ServiceAccountName].(*corev1.ServiceAccount)
		r.want(ok, "runs under account %s, which is not there", p.ServiceAccountName)
		r.want(!ok || a.AutomountServiceAccountToken != nil && !*a.AutomountServiceAccountToken, "runs under account %s, which hands out tokens", p.ServiceAccountName)
	}
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
		r.want(!c.Resources.Requests.Cpu().IsZero(), "container %s requests no CPU", c.Name)
		r.configured(c)
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

// service checks that a Service reaches the pods of exactly one workload, by ports that it names.
func (r *ruler) service(s *corev1.Service) {
	all := r.pods(&metav1.LabelSelector{MatchLabels: s.Spec.Selector})
	r.want(len(s.Spec.Selector) > 0 && len(all) == 1, "selects the pods of %v, not of one", all)
	if len(all) != 1 {
		return
	}
	for _, p := range s.Spec.Ports {
		target := all[0].number(&p.TargetPort)
		r.want(target != 0, "port %s goes to %s, which %s does not have", p.Name, p.TargetPort.String(), all[0])
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
