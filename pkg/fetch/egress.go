package fetch

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Policy says which addresses the platform's outgoing requests may reach. Public unicast addresses always may.
type Policy struct {
	// AllowCIDRs are ranges that may be reached although they are not public (--egress-allow). A cloud's metadata
	// address needs a prefix that names it alone (/32, /128), for whoever allows a whole network hardly means that one.
	AllowCIDRs []netip.Prefix
	// AllowLoopback allows 127.0.0.0/8 and ::1: for tests and for the single-process set-up.
	AllowLoopback bool
}

// EgressError says which address was refused and why.
type EgressError struct {
	// Addr is the resolved address; invalid if the refusal is about something else.
	Addr netip.Addr
	// Why is "private", "loopback", "link-local" and the like, or a whole reason if Addr is invalid.
	Why string
}

// Error names the way to allow it, as an operator will read this.
func (e *EgressError) Error() string {
	if !e.Addr.IsValid() {
		return e.Why
	}
	return fmt.Sprintf("address %s is %s; allow it with --egress-allow %s", e.Addr, e.Why, netip.PrefixFrom(e.Addr, e.Addr.BitLen()))
}

type addrClass struct {
	prefix netip.Prefix
	why    string
}

func classes(why string, cidrs ...string) (out []addrClass) {
	for _, c := range cidrs {
		out = append(out, addrClass{netip.MustParsePrefix(c), why})
	}
	return out
}

// special lists the IPv4 ranges that are not public unicast (IANA IPv4 Special-Purpose Address Registry). For IPv6 the
// rule is the reverse: only 2000::/3 is given out as global unicast, so the list names what is special inside it.
var special = func() (out []addrClass) {
	out = append(out, classes("loopback", "127.0.0.0/8", "::1/128")...)
	out = append(out, classes("private", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10")...)
	out = append(out, classes("link-local", "169.254.0.0/16", "fe80::/10")...)
	out = append(out, classes("carrier-grade NAT", "100.64.0.0/10")...)
	out = append(out, classes("unspecified", "0.0.0.0/8", "::/128")...)
	out = append(out, classes("multicast", "224.0.0.0/4", "ff00::/8")...)
	out = append(out, classes("reserved", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4", "2001::/23", "2001:db8::/32", "3fff::/20")...)
	return out
}()

var globalUnicast6 = netip.MustParsePrefix("2000::/3")

// metadata are the addresses where clouds hand out credentials to whoever asks from inside: the link-local one of most,
// AWS over IPv6, Alibaba, Oracle, and Azure's wire server, which has a public address.
var metadata = map[netip.Addr]bool{
	netip.MustParseAddr("169.254.169.254"): true,
	netip.MustParseAddr("169.254.170.2"):   true,
	netip.MustParseAddr("fd00:ec2::254"):   true,
	netip.MustParseAddr("100.100.100.200"): true,
	netip.MustParseAddr("192.0.0.192"):     true,
	netip.MustParseAddr("168.63.129.16"):   true,
}

// Check reports whether addr may be reached; the error is an *EgressError. An IPv6 address that carries an IPv4 address
// (mapped, compatible, 6to4, NAT64, ISATAP) is judged by that one.
func (p Policy) Check(addr netip.Addr) error {
	addr = addr.Unmap().WithZone("")
	if p.allows(addr) {
		return nil
	}
	if v4, ok := embedded(addr); ok {
		if err := p.Check(v4); err != nil {
			why := err.(*EgressError).Why
			return &EgressError{Addr: addr, Why: why + " (it carries " + v4.String() + ")"}
		}
		return nil
	}
	if metadata[addr] {
		return &EgressError{Addr: addr, Why: "a cloud metadata service"}
	}
	for _, c := range special {
		if c.prefix.Contains(addr) {
			if c.why == "loopback" && p.AllowLoopback {
				return nil
			}
			return &EgressError{Addr: addr, Why: c.why}
		}
	}
	if addr.Is6() && !globalUnicast6.Contains(addr) {
		return &EgressError{Addr: addr, Why: "not global unicast"}
	}
	return nil
}

func (p Policy) allows(addr netip.Addr) bool {
	for _, c := range p.AllowCIDRs {
		if c.Contains(addr) && (!metadata[addr] || c.IsSingleIP()) {
			return true
		}
	}
	return false
}

var (
	compat   = netip.MustParsePrefix("::/96")
	sixToFor = netip.MustParsePrefix("2002::/16")
	nat64    = netip.MustParsePrefix("64:ff9b::/96")
	nat64own = netip.MustParsePrefix("64:ff9b:1::/48")
)

// embedded returns the IPv4 address that a gateway on the way would turn addr into.
func embedded(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	b := addr.As16()
	last := netip.AddrFrom4([4]byte(b[12:16]))
	switch {
	case sixToFor.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case nat64.Contains(addr), nat64own.Contains(addr):
		return last, true
	case compat.Contains(addr) && b[12] != 0: // :: and ::1 are not compatible addresses
		return last, true
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // ISATAP interface identifier, RFC 5214
		return last, true
	}
	return netip.Addr{}, false
}

// control runs between resolution and connect, so there is nothing left that could resolve differently.
func (p Policy) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return &EgressError{Why: "network " + network + " is not allowed"}
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return &EgressError{Why: "address is not an IP address and port"}
	}
	return p.Check(ap.Addr())
}

// badPorts are services that a request line could be smuggled to: the list that browsers agreed on (WHATWG Fetch,
// "bad port"), below 1024 and above, less tcpmux and discard (1, 9): these speak nothing, and people write them to mean an
// address where nobody answers.
var badPorts = func() map[uint16]bool {
	m := map[uint16]bool{}
	for _, p := range []uint16{
		0, 7, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110, 111, 113, 115,
		117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601,
		636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
	} {
		m[p] = true
	}
	return m
}()

// checkURL is what can be said about a target without resolving it.
func (p Policy) checkURL(u *url.URL) error {
	if err := checkForm(u); err != nil {
		return err
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		return p.Check(addr)
	}
	return nil
}

func checkForm(u *url.URL) error {
	if u.Scheme != "http" && u.Scheme != "https" {
		return &EgressError{Why: fmt.Sprintf("scheme %.20q is not http or https", u.Scheme)}
	}
	if u.Opaque != "" || u.Hostname() == "" {
		return &EgressError{Why: "the URL has no host"}
	}
	// A name in another script may look like a known one, and which ASCII name it stands for depends on who converts it.
	if strings.ContainsFunc(u.Host, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return &EgressError{Why: "the host must be written in ASCII (xn--…)"}
	}
	if port := u.Port(); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || badPorts[uint16(n)] {
			return &EgressError{Why: "port " + strconv.Quote(port) + " is not allowed"}
		}
	}
	return nil
}

// CheckURL says whether a URL that somebody configures can be one to ask at all: http or https, a host that is written in
// ASCII, a port that no other protocol listens on. The address it leads to is checked at each dial.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return &EgressError{Why: "the URL cannot be parsed"}
	}
	u.Scheme = strings.ToLower(u.Scheme)
	return checkForm(u)
}

// checkProxied does what it can for a target that the proxy will resolve, out of our sight: names that are numbers in
// disguise (2130706433, 0x7f.1) are refused, and a name that we can resolve must resolve to allowed addresses only.
// A name that only the proxy knows is the proxy's to judge.
func (r *Remote) checkProxied(ctx context.Context, hostname string) error {
	if _, err := netip.ParseAddr(hostname); err == nil {
		return nil // checkURL has seen it
	}
	trimmed := strings.TrimSuffix(hostname, ".")
	last := trimmed[strings.LastIndexByte(trimmed, '.')+1:]
	if last != "" && last[0] >= '0' && last[0] <= '9' {
		return &EgressError{Why: fmt.Sprintf("host %.60q is a number, not a name", hostname)}
	}
	now := r.c.cfg.Clock.Now()
	r.mu.Lock()
	fresh := now.Before(r.resolved[hostname])
	r.mu.Unlock()
	if fresh {
		return nil
	}
	addrs, err := r.c.resolver().LookupNetIP(ctx, "ip", hostname)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		for _, a := range addrs {
			if err := r.c.cfg.Egress.Check(a); err != nil {
				return err
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.resolved) >= 100 { // strangers' redirects name hosts; forgetting costs one look-up
		clear(r.resolved)
	}
	r.resolved[hostname] = now.Add(30 * time.Second)
	return nil
}
