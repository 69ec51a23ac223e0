package platform

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/lifecycle"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// metricsModule reports what no service looks after by itself. It ends before what it looks at does.
func (p *Platform) metricsModule() lifecycle.Module {
	var observed []metric.Registration
	return lifecycle.Module{
		Name: "metrics", Needs: []string{"postgres"},
		Start: func(context.Context) error {
			meters := otel.GetMeterProvider()
			pool, err := pg.ObservePool(meters, p.pool)
			if err != nil {
				return err
			}
			observed = append(observed, pool)
			if !p.cfg.Runs("identity") {
				return nil
			}
			outbox, err := audit.ObserveOutbox(meters, p.pool)
			if err != nil {
				return err
			}
			observed = append(observed, outbox)
			return nil
		},
		Stop: func(context.Context) error {
			for _, o := range observed {
				_ = o.Unregister() // the provider may have shut down before
			}
			return nil
		},
	}
}
