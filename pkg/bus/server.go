package bus

import (
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// readyTimeout bounds a start: recovering large streams reads their files.
const readyTimeout = 30 * time.Second

// EmbeddedConfig says how the server inside the process runs.
type EmbeddedConfig struct {
	// StoreDir holds the streams. The caller holds a lock that keeps a second program out.
	StoreDir string
	// Listen is a TCP address such as 127.0.0.1:4222; port 0 chooses one. Empty means no socket at all, and connections
	// only from this process.
	Listen string
	// Token is what TCP clients must present. It may be empty on a loopback address only.
	Token string
	// NoSync is for tests: an acknowledged message may then be lost in a power cut.
	NoSync bool
	// Log receives the server's messages; nil drops them.
	Log *slog.Logger
}

// Server is a NATS server with JetStream in this process.
type Server struct {
	ns   *server.Server
	stop sync.Once
}

// StartEmbedded starts the server and waits until it and JetStream are ready, which takes a few milliseconds.
func StartEmbedded(cfg EmbeddedConfig) (*Server, error) {
	if cfg.StoreDir == "" {
		return nil, fault.New(fault.Invalid, "embedded NATS: the store directory is not set") // the server would use a shared one under /tmp
	}
	opts := &server.Options{
		ServerName: "entrepot",
		JetStream:  true,
		StoreDir:   cfg.StoreDir,
		SyncAlways: !cfg.NoSync,
		NoSigs:     true, // signals are the program's
		NoLog:      true, // or it would write to stderr; SetLogger below
		DontListen: cfg.Listen == "",
	}
	if cfg.Listen != "" {
		if err := listenOn(opts, cfg); err != nil {
			return nil, err
		}
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	if cfg.Log != nil {
		ns.SetLogger(slogger{cfg.Log}, false, false)
	}
	ns.Start()
	if !ns.ReadyForConnections(readyTimeout) {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, fault.New(fault.Unavailable, "embedded NATS was not ready within %s (store %s)", readyTimeout, cfg.StoreDir)
	}
	if !ns.JetStreamEnabled() {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, fault.New(fault.Unavailable, "embedded NATS runs without JetStream: the store %s cannot be used", cfg.StoreDir)
	}
	return &Server{ns: ns}, nil
}

func listenOn(opts *server.Options, cfg EmbeddedConfig) error {
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return fault.New(fault.Invalid, "NATS address %q: %w", cfg.Listen, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fault.New(fault.Invalid, "NATS address %q: the port is not a number below 65536", cfg.Listen)
	}
	ip := net.ParseIP(host)
	if cfg.Token == "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		// Whoever reaches the port could purge every stream.
		return fault.New(fault.Precondition, "NATS may listen on %q, which is no loopback address, with a token only", cfg.Listen)
	}
	opts.Host, opts.Port, opts.Authorization = host, int(n), cfg.Token
	if n == 0 {
		opts.Port = server.RANDOM_PORT
	}
	return nil
}

// Conn returns a new connection from this process; the caller closes it.
func (s *Server) Conn(opts Options) (*nats.Conn, error) {
	o := opts.nats()
	o = append(o, nats.InProcessServer(s.ns))
	if s.ns.ClientURL() != "" && opts.Token != "" {
		o = append(o, nats.Token(opts.Token))
	}
	nc, err := nats.Connect("", o...)
	if err != nil {
		return nil, fmt.Errorf("connect to embedded NATS: %w", err)
	}
	return nc, nil
}

// URL returns where TCP clients connect, empty if there is no socket.
func (s *Server) URL() string {
	if a := s.ns.Addr(); a != nil {
		return "nats://" + a.String()
	}
	return ""
}

// Stop closes the clients, writes what is open and returns when all goroutines have ended. It may be called twice.
func (s *Server) Stop() {
	s.stop.Do(s.ns.Shutdown)
	s.ns.WaitForShutdown()
}

// slogger hands the server's messages to slog. Its notices are our debug: each start prints a banner of them.
type slogger struct{ log *slog.Logger }

func (l slogger) Noticef(format string, v ...any) {
	l.log.Debug("nats", "message", fmt.Sprintf(format, v...))
}

func (l slogger) Warnf(format string, v ...any) {
	l.log.Warn("nats", "message", fmt.Sprintf(format, v...))
}

func (l slogger) Errorf(format string, v ...any) {
	l.log.Error("nats", "message", fmt.Sprintf(format, v...))
}

func (l slogger) Fatalf(format string, v ...any) {
	l.log.Error("nats", "message", fmt.Sprintf(format, v...), "fatal", true)
}

func (l slogger) Debugf(format string, v ...any) {
	l.log.Debug("nats", "message", fmt.Sprintf(format, v...))
}

func (l slogger) Tracef(string, ...any) {} // messages' contents: never into a log
