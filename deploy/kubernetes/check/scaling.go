package main

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// scaledObject is what we use of KEDA's type of this name; anything else in one is a problem until it is added here. The
// schema of the definition itself is applied as well.
type scaledObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		ScaleTargetRef struct {
			Name string `json:"name"`
		} `json:"scaleTargetRef"`
		PollingInterval int32 `json:"pollingInterval"`
		CooldownPeriod  int32 `json:"cooldownPeriod"`
		MinReplicaCount int32 `json:"minReplicaCount"`
		MaxReplicaCount int32 `json:"maxReplicaCount"`
		Fallback        struct {
			FailureThreshold int32 `json:"failureThreshold"`
			Replicas         int32 `json:"replicas"`
		} `json:"fallback"`
		Advanced struct {
			HorizontalPodAutoscalerConfig struct {
				Behavior autoscalingv2.HorizontalPodAutoscalerBehavior `json:"behavior"`
			} `json:"horizontalPodAutoscalerConfig"`
		} `json:"advanced"`
		Triggers []trigger `json:"triggers"`
	} `json:"spec"`
}

type trigger struct {
	Type       string            `json:"type"`
	MetricType string            `json:"metricType"`
	Metadata   map[string]string `json:"metadata"`
}

func (r *ruler) autoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	ref := h.Spec.ScaleTargetRef
	r.want(ref.Kind == "Deployment" && ref.APIVersion == "apps/v1", "scales a %s of %s, not a Deployment of apps/v1", ref.Kind, ref.APIVersion)
	d := r.scaled(ref.Name)
	r.want(h.Spec.MinReplicas != nil && *h.Spec.MinReplicas >= 1 && *h.Spec.MinReplicas <= h.Spec.MaxReplicas, "has no sound minReplicas")
	r.want(len(h.Spec.Metrics) > 0, "has no metrics")
	if d == nil {
		return
	}
	for _, m := range h.Spec.Metrics {
		if m.Resource != nil && m.Resource.Target.Type == autoscalingv2.UtilizationMetricType {
			for _, c := range d.Spec.Template.Spec.Containers {
				_, ok := c.Resources.Requests[m.Resource.Name]
				r.want(ok, "measures the use of %s, of which container %s requests nothing", m.Resource.Name, c.Name)
			}
		}
	}
}

func (r *ruler) scaledObject(s *scaledObject) {
	d := r.scaled(s.Spec.ScaleTargetRef.Name)
	r.want(s.Spec.MinReplicaCount >= 0 && s.Spec.MaxReplicaCount >= max(s.Spec.MinReplicaCount, 1), "has no sound replica counts")
	r.want(len(s.Spec.Triggers) > 0, "has no triggers")
	for _, t := range s.Spec.Triggers {
		r.want(t.Type == "metrics-api" && t.MetricType == "AverageValue", "trigger %s %s is not one that this check knows", t.Type, t.MetricType)
		for k := range t.Metadata {
			r.want(slices.Contains([]string{"url", "valueLocation", "targetValue", "activationTargetValue"}, k), "trigger has %s, which metrics-api does not know", k)
		}
		r.want(slices.Contains([]string{"demand", "queued", "running"}, t.Metadata["valueLocation"]), "reads %s, which the demand of a pool does not have", t.Metadata["valueLocation"])
		n, err := strconv.ParseFloat(t.Metadata["targetValue"], 64)
		r.want(err == nil && n > 0, "targetValue %q is no number of jobs", t.Metadata["targetValue"])
		if d != nil {
			r.demand(s.Namespace, t.Metadata["url"], d.Name)
		}
	}
}

// demand checks the address where KEDA, which lives in another namespace, asks for the demand of a pool.
func (r *ruler) demand(namespace, address, pool string) {
	u, err := url.Parse(address)
	if err != nil {
		r.want(false, "url %s: %v", address, err)
		return
	}
	name, rest, _ := strings.Cut(u.Hostname(), ".")
	r.want(rest == namespace+".svc", "asks at %s, which is not in namespace %s", u.Hostname(), namespace)
	s, ok := r.objects["Service/"+name].(*corev1.Service)
	if !ok {
		r.want(false, "asks Service %s, which is not there", name)
		return
	}
	r.want(s.Spec.Selector[component] == "jobs", "asks %s, not jobs", s.Spec.Selector[component])
	r.want(slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return strconv.Itoa(int(p.Port)) == u.Port() }), "asks port %s, which Service %s does not have", u.Port(), name)
	r.want(u.Path == "/demand/"+pool, "asks for %s, but scales %s", u.Path, pool)
}

// scaled returns the deployment that something scales. It must not say how many replicas it wants: each `kubectl apply`
// would set them again.
func (r *ruler) scaled(name string) *appsv1.Deployment {
	d, ok := r.objects["Deployment/"+name].(*appsv1.Deployment)
	if !ok {
		r.want(false, "scales Deployment %s, which is not there", name)
		return nil
	}
	r.want(d.Spec.Replicas == nil, "scales %s, which sets its replicas itself", name)
	return d
}
