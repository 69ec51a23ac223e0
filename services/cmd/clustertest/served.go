package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// Names of metrics; docs/operations.md tells them to operators.
const (
	servedRPCs   = "rpc_server_call_duration_seconds_count"
	servedHTTP   = "http_server_request_duration_seconds_count"
	servedJobs   = "entrepot_jobs_attempts_total"
	acceptedFrom = "entrepot_service_connections_total"
)

// lastRound gives every process something to do once more: counters begin at zero in one that was restarted.
func (s *stage) lastRound(ctx context.Context) error {
	for _, name := range []string{"gateway-1", "gateway-2"} {
		n := s.nodes[name]
		// The dialect's own service, which a gateway calls by its own service port, and two others behind it.
		for _, path := range []string{"/api/paginated/channels", "/entrepot/v1/jobs", "/entrepot/v1/storage/usage", "/entrepot/v1/channels/" + watchedName + "/metrics"} {
			if status, data, err := s.rest(ctx, http.MethodGet, n.url()+path, s.key, nil); err != nil || status != http.StatusOK {
				return fmt.Errorf("%s of %s: %d %s %w", path, name, status, data, err)
			}
		}
		if err := s.frontDoor(ctx, n); err != nil {
			return fmt.Errorf("the gRPC front door of %s: %w", name, err)
		}
	}
	// Which worker takes a job is up to them.
	for i := 0; ; i++ {
		up, err := s.slowUpstream(fmt.Sprintf("last-%d", i), uint64(100+i), 0)
		if err != nil {
			return err
		}
		job, err := s.startMirror(ctx, fmt.Sprintf("last-%d", i), up.URL)
		if err == nil {
			err = s.succeeded(ctx, job)
		}
		up.Close()
		if err != nil {
			return err
		}
		idle := ""
		for _, name := range []string{"sync-worker-1", "sync-worker-2"} {
			m, err := s.readMetrics(ctx, s.nodes[name])
			if err != nil {
				return err
			}
			if done, _ := m.sum(servedJobs, `kind="sync.channel"`, `state="succeeded"`); done == 0 {
				idle = name
			}
		}
		if idle == "" {
			break
		}
		if i == 20 {
			return fmt.Errorf("%s has not had one of the last %d syncs", idle, i)
		}
	}
	for _, name := range []string{"gateway-1", "gateway-2"} { // which call one sync each
		if status, data, err := s.rest(ctx, http.MethodGet, s.nodes[name].url()+"/entrepot/v1/channels/last-0/sync", s.key, nil); err != nil || status != http.StatusOK {
			return fmt.Errorf("the last sync by %s: %d %s %w", name, status, data, err)
		}
	}
	job, err := s.client.CollectGarbage(ctx, false)
	if err != nil {
		return fmt.Errorf("garbage collection: %w", err)
	}
	return s.succeeded(ctx, fmt.Sprint(job.GetNumber()))
}

// frontDoor calls a service as another system would.
func (s *stage) frontDoor(ctx context.Context, n *node) error {
	conn, err := grpc.NewClient(n.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+s.key), 10*time.Second)
	defer cancel()
	_, err = channelsv1.NewChannelServiceClient(conn).GetChannel(ctx, &channelsv1.GetChannelRequest{Channel: watchedName})
	return err
}

// measure reads a process's metrics and refuses one that did not do what its target is for.
func (s *stage) measure(ctx context.Context, n *node) (row, error) {
	r := row{name: n.name, pid: n.proc.pid(), starts: n.previous + 1}
	m, err := s.readMetrics(ctx, n)
	if err != nil {
		return r, err
	}
	var errs []error
	// want returns a sum that has to be above 0.
	want := func(what, name string, labels ...string) float64 {
		v, _ := m.sum(name, labels...)
		if v == 0 {
			errs = append(errs, fmt.Errorf("%s: no %s (%s%v)", n.name, what, name, labels))
		}
		return v
	}
	memory, shown := m.sum(acceptedFrom, `network="memory"`)
	if !shown || memory != 0 {
		errs = append(errs, fmt.Errorf("%s took %.0f calls in memory (shown: %t)", n.name, memory, shown))
	}
	own := func(service string) string { return `rpc_method="entrepot.` + service + `.v1.` }
	switch kind, isPool := strings.CutSuffix(n.target, "-worker"); {
	case isPool:
		r.jobs = want("jobs", servedJobs, `kind="`+kind+`.`, `state="succeeded"`)
		r.served = kind + ".* jobs"
	case n.target == "gateway":
		r.http = want("requests", servedHTTP, `status_class="2xx"`)
		r.rpcs = want("calls of its dialects", servedRPCs, own("rest.quetz"), `"OK"`) +
			want("calls by the front door", servedRPCs, own("channels"), `"OK"`)
		r.served = "HTTP, front door"
	default:
		r.rpcs = want("calls", servedRPCs, own(n.target), `"OK"`)
		r.served = "entrepot." + n.target + ".v1"
	}
	if r.rpcs > 0 {
		r.connections = want("TCP connections", acceptedFrom, `network="tcp"`)
	}
	return r, errors.Join(errs...)
}
