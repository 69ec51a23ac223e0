package main

import (
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// settings are the platform's own: every key it knows with its default, as `entrepot config show` prints them.
type settings struct {
	keys map[string]any
}

func readSettings(path string) (*settings, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &settings{}
	if err := yaml.Unmarshal(data, &s.keys); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(s.keys) == 0 {
		return nil, fmt.Errorf("%s: no settings", path)
	}
	return s, nil
}

// reserved variables are read by the program, but are no settings.
var reserved = []string{"ENTREPOT_CONFIG", "ENTREPOT_PG_BIN"}

// env returns what is wrong with a variable of one of our containers; empty if nothing is.
func (s *settings) env(name string) string {
	key, ok := strings.CutPrefix(name, "ENTREPOT_")
	if !ok || slices.Contains(reserved, name) {
		return ""
	}
	return s.key(strings.Split(strings.ToLower(key), "__"))
}

func (s *settings) key(path []string) string {
	var at any = s.keys
	for i, part := range path {
		level, ok := at.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s has nothing below it", strings.Join(path[:i], "."))
		}
		if at, ok = level[part]; !ok {
			// An empty mapping, such as services, takes any key.
			if len(level) == 0 && i > 0 {
				return ""
			}
			return fmt.Sprintf("%s is no setting", strings.Join(path, "."))
		}
	}
	return ""
}

// file returns what is wrong with a configuration file.
func (s *settings) file(text string) []string {
	var content map[string]any
	if err := yaml.UnmarshalStrict([]byte(text), &content); err != nil {
		return []string{err.Error()}
	}
	var problems []string
	var walk func(path []string, v any)
	walk = func(path []string, v any) {
		if level, ok := v.(map[string]any); ok {
			for _, k := range slices.Sorted(maps.Keys(level)) {
				walk(append(slices.Clone(path), k), level[k])
			}
			return
		}
		if p := s.key(path); p != "" {
			problems = append(problems, p)
		}
	}
	walk(nil, content)
	return problems
}

// listens names the addresses that a target opens; every process has service_addr and ops_addr. `entrepot nats` is no
// target: its flags say it all.
var listens = map[string][]string{
	"gateway": {"http_addr", "grpc_addr"},
	"storage": {"data_addr"},
	"sync":    {"data_addr"},
}

// ports returns the ports that a process with this target listens on.
func (s *settings) ports(target string) []int32 {
	var out []int32
	for _, key := range append([]string{"service_addr", "ops_addr"}, listens[target]...) {
		addr, _ := s.keys[key].(string)
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			continue // then nothing listens there, and whoever names the port hears of it
		}
		n, err := strconv.ParseInt(port, 10, 32)
		if err == nil {
			out = append(out, int32(n))
		}
	}
	return out
}

// configured checks the settings of one of our containers: variables, files, and ports against addresses.
func (r *ruler) configured(c corev1.Container) {
	for _, e := range c.Env {
		if p := r.settings.env(e.Name); p != "" {
			r.want(false, "variable %s: %s", e.Name, p)
		}
	}
	if len(c.Args) == 0 || c.Args[0] != "serve" {
		return
	}
	target := c.Args[len(c.Args)-1]
	for _, p := range c.Ports {
		r.want(slices.Contains(r.settings.ports(target), p.ContainerPort), "port %s is %d, where target %s does not listen", p.Name, p.ContainerPort, target)
	}
}

// configFile checks the files that our processes read, and that the services they name are here.
func (r *ruler) configFile(c *corev1.ConfigMap) {
	text, ok := c.Data["entrepot.yaml"]
	if !ok {
		return
	}
	for _, p := range r.settings.file(text) {
		r.want(false, "entrepot.yaml: %s", p)
	}
	var content struct {
		Services  map[string]string `json:"services"`
		DataURL   string            `json:"data_url"`
		FetchURLs []string          `json:"fetch_urls"`
	}
	if err := yaml.Unmarshal([]byte(text), &content); err != nil {
		return // said above
	}
	for _, name := range slices.Sorted(maps.Keys(content.Services)) {
		r.reachable(content.Services[name], name)
	}
	r.reachable(strings.TrimPrefix(content.DataURL, "http://"), "storage")
	for _, u := range content.FetchURLs {
		r.reachable(strings.TrimPrefix(u, "http://"), "sync")
	}
}

// reachable checks that an address is a Service with this port, and leads to the target.
func (r *ruler) reachable(addr, target string) {
	host, port, err := net.SplitHostPort(addr)
	s, ok := r.objects["Service/"+host].(*corev1.Service)
	if err != nil || !ok {
		r.want(false, "%s is to be at %s, which is no Service here", target, addr)
		return
	}
	found := slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return strconv.Itoa(int(p.Port)) == port })
	r.want(found, "%s is to be at %s, a port that the Service does not have", target, addr)
	r.want(s.Spec.Selector[component] == target, "%s is to be at %s, which leads to %s", target, addr, s.Spec.Selector[component])
}
