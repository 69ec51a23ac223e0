package apitest

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/entrepot-dev/entrepot/gateway"
	"github.com/entrepot-dev/entrepot/gateway/edge"
)

// dialects returns the tables of routes of an edge that is never asked anything: its services are nowhere.
func dialects(t *testing.T, dev bool) []*edge.Dialect {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	g, err := gateway.New(t.Context(), gateway.Deps{Dial: func(string) (*grpc.ClientConn, error) { return conn, nil }, Dev: dev, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return g.Routes()
}

// routesOf returns a dialect's routes as `METHOD /pattern`.
func routesOf(t *testing.T, name string, dev bool) []edge.Route {
	t.Helper()
	for _, d := range dialects(t, dev) {
		if d.Name == name {
			return d.Routes
		}
	}
	t.Fatalf("there is no dialect %s", name)
	return nil
}
