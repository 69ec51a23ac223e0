package platform

import (
	"context"
	"net"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// serveServices answers calls to the services of this process on the service port, and in memory unless that is off.
func (p *Platform) serveServices(l net.Listener) error {
	accepted, err := otel.Meter("entrepot/platform").Int64Counter("entrepot.service.connections",
		metric.WithDescription("Connections that other parts of the platform opened to services of this process, over TCP or in its memory."))
	if err != nil {
		return err
	}
	for network, l := range map[string]net.Listener{"tcp": l, "memory": p.memory} {
		c := &counted{Listener: l, counter: accepted, attrs: metric.WithAttributeSet(attribute.NewSet(attribute.String("network", network)))}
		c.counter.Add(context.Background(), 0, c.attrs) // shown from the start: a series that is absent proves nothing
		if l != nil {
			p.serve("services", func() error { return p.server.Serve(c) })
		}
	}
	return nil
}

// counted counts the connections that a listener accepts.
type counted struct {
	net.Listener
	counter metric.Int64Counter
	attrs   metric.MeasurementOption
}

// Accept implements net.Listener.
func (c *counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.counter.Add(context.Background(), 1, c.attrs)
	}
	return conn, err
}
