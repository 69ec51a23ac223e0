package bus

import (
	"errors"
	"fmt"
	"log/slog"
	neturl "net/url"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Options say who connects and how.
type Options struct {
	// Name is shown in the server's connection list, such as "entrepot channels".
	Name string
	// Token, or CredsFile (a NATS .creds file), proves who we are; a user and password may stand in the URL instead.
	Token     string
	CredsFile string
	// RootCAs are PEM files to verify the server with, for tls:// URLs; none means the system's.
	RootCAs []string
	// Log receives disconnects, reconnects and what subscriptions could not take; nil drops them.
	Log *slog.Logger
}

// Connect connects to a server, or to one of several (commas between their URLs), and reconnects for ever. It does not
// fail because no server is there yet: that is for Probe, and so for readiness, to say.
func Connect(url string, opts Options) (*nats.Conn, error) {
	o := opts.nats()
	o = append(o, nats.RetryOnFailedConnect(true))
	if opts.Token != "" {
		o = append(o, nats.Token(opts.Token))
	}
	if opts.CredsFile != "" {
		o = append(o, nats.UserCredentials(opts.CredsFile))
	}
	if len(opts.RootCAs) > 0 {
		o = append(o, nats.RootCAs(opts.RootCAs...))
	}
	nc, err := nats.Connect(url, o...)
	if bad := new(neturl.Error); errors.As(err, &bad) {
		// It repeats the URL, which may hold a password or a token.
		return nil, fault.New(fault.Invalid, "the NATS URL cannot be read as one: %w", bad.Err)
	}
	if err != nil {
		return nil, fault.New(fault.Unavailable, "connect to NATS: %w", err)
	}
	return nc, nil
}

func (o Options) nats() []nats.Option {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return []nats.Option{
		nats.Name(o.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 500*time.Millisecond), // a restarted server meets its clients spread out
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2), // a dead peer is noticed within 30 s
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("NATS disconnected", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("NATS reconnected", "server", nc.ConnectedServerName())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Warn("NATS", "error", fmt.Sprint(err), "subject", subject)
		}),
	}
}
