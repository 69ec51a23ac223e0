package main

import (
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// policy checks that a NetworkPolicy selects pods, lets in only at ports that they have, and leads only to ports that
// those at the other end have.
func (r *ruler) policy(p *networkingv1.NetworkPolicy) {
	selected := r.pods(&p.Spec.PodSelector)
	r.want(len(selected) > 0, "selects no pods")
	r.want(len(p.Spec.PolicyTypes) > 0, "does not say whether it is about ingress or egress")
	types := p.Spec.PolicyTypes
	r.want(len(p.Spec.Ingress) == 0 || slices.Contains(types, networkingv1.PolicyTypeIngress), "has rules for ingress, and is not about it")
	r.want(len(p.Spec.Egress) == 0 || slices.Contains(types, networkingv1.PolicyTypeEgress), "has rules for egress, and is not about it")
	for _, rule := range p.Spec.Ingress {
		r.want(len(rule.Ports) > 0, "lets in at every port")
		for _, port := range rule.Ports {
			for _, w := range selected {
				r.want(w.has(port.Port), "lets in to %s at port %s, which it does not have", w, text(port.Port))
			}
		}
		r.peers(rule.From, nil)
	}
	for _, rule := range p.Spec.Egress {
		r.want(len(rule.Ports) > 0, "lets out at every port")
		r.want(len(rule.To) > 0, "lets out to everywhere")
		r.peers(rule.To, rule.Ports)
	}
}

// peers checks that the pods at the other end exist and have the ports. Those of other namespaces nobody here can know.
func (r *ruler) peers(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
	for _, peer := range peers {
		if peer.PodSelector == nil || peer.NamespaceSelector != nil {
			continue
		}
		others := r.pods(peer.PodSelector)
		r.want(len(others) > 0, "speaks of pods that are not there: %s", metav1.FormatLabelSelector(peer.PodSelector))
		for _, expr := range peer.PodSelector.MatchExpressions {
			r.values(expr)
		}
		for _, port := range ports {
			for _, w := range others {
				r.want(w.has(port.Port), "leads to %s at port %s, which it does not have", w, text(port.Port))
			}
		}
	}
}

// values checks that each component that a selector lists exists: a misspelt one in a list of eight selects seven.
func (r *ruler) values(expr metav1.LabelSelectorRequirement) {
	if expr.Key != component {
		return
	}
	for _, v := range expr.Values {
		r.want(slices.ContainsFunc(r.workloads(), func(w workload) bool { return w.labels[component] == v }), "speaks of component %s, which is not there", v)
	}
}

// covered checks what only all policies together promise: nothing but what is named gets through, and all that a Service
// offers does.
func (r *ruler) covered() {
	var denied bool
	reached := map[string]map[int32]bool{} // workload → ports that somebody is let in to
	leaves := map[string]bool{}
	for _, o := range r.objects {
		p, ok := o.(*networkingv1.NetworkPolicy)
		if !ok {
			continue
		}
		if len(p.Spec.PodSelector.MatchLabels)+len(p.Spec.PodSelector.MatchExpressions) == 0 {
			denied = denied || len(p.Spec.Ingress)+len(p.Spec.Egress) == 0 && len(p.Spec.PolicyTypes) == 2
			continue
		}
		for _, w := range r.pods(&p.Spec.PodSelector) {
			leaves[w.String()] = leaves[w.String()] || len(p.Spec.Egress) > 0
			for _, rule := range p.Spec.Ingress {
				for _, port := range rule.Ports {
					if reached[w.String()] == nil {
						reached[w.String()] = map[int32]bool{}
					}
					reached[w.String()][w.number(port.Port)] = true
				}
			}
		}
	}
	r.of = "NetworkPolicy"
	r.want(denied, "none refuses by default what no other allows")
	for _, w := range r.workloads() {
		r.of = w.String()
		r.want(leaves[r.of] || !w.ours(), "no NetworkPolicy lets it speak with anybody")
		for _, port := range w.served {
			r.want(reached[r.of][port], "is served at port %d, and no NetworkPolicy lets anybody in", port)
		}
	}
}

func text(port *intstr.IntOrString) string {
	if port == nil {
		return "(any)"
	}
	return port.String()
}
