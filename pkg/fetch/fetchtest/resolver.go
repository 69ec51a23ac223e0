package fetchtest

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// Names is a name server on loopback that may answer otherwise each time it is asked, as that of an attacker does.
type Names struct {
	conn net.PacketConn
	done chan struct{}

	mu      sync.Mutex
	answers map[string][][]netip.Addr
	asked   map[string]int // questions
}

// NewNames starts one. It knows no names.
func NewNames(t testing.TB) *Names {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &Names{conn: conn, done: make(chan struct{}), answers: map[string][][]netip.Addr{}, asked: map[string]int{}}
	go n.serve()
	t.Cleanup(func() { conn.Close(); <-n.done })
	return n
}

// Set says what the look-ups of a name get, one after the other; the last answer repeats. Each is a list of addresses
// with commas between them.
func (n *Names) Set(name string, answers ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := strings.ToLower(strings.TrimSuffix(name, ".")) + "."
	n.answers[key], n.asked[key] = nil, 0
	for _, list := range answers {
		var addrs []netip.Addr
		for a := range strings.SplitSeq(list, ",") {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		n.answers[key] = append(n.answers[key], addrs)
	}
}

// Asked returns how often a name was looked up.
func (n *Names) Asked(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return (n.asked[strings.ToLower(strings.TrimSuffix(name, "."))+"."] + 1) / 2
}

// Resolver asks the server and nobody else.
func (n *Names) Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", n.conn.LocalAddr().String())
	}}
}

func (n *Names) serve() {
	defer close(n.done)
	buf := make([]byte, 1500)
	for {
		k, from, err := n.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:k]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		m.Response, m.Authoritative, m.Additionals = true, true, nil
		m.RCode = dnsmessage.RCodeSuccess
		addrs, ok := n.answer(q)
		if !ok {
			m.RCode = dnsmessage.RCodeNameError
		}
		head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}
		for _, a := range addrs {
			switch {
			case q.Type == dnsmessage.TypeA && a.Is4():
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
			case q.Type == dnsmessage.TypeAAAA && a.Is6():
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
			}
		}
		if out, err := m.Pack(); err == nil {
			_, _ = n.conn.WriteTo(out, from)
		}
	}
}

// answer counts two questions as one look-up, for each asks for addresses of both kinds, in any order.
func (n *Names) answer(q dnsmessage.Question) ([]netip.Addr, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := strings.ToLower(q.Name.String())
	list := n.answers[key]
	if len(list) == 0 {
		return nil, false
	}
	at := min(n.asked[key]/2, len(list)-1)
	n.asked[key]++
	return list[at], true
}
