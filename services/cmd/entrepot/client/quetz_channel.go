package client

import (
	"context"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/quetzdb"
)

// underWay begins the description of a channel that is not complete, so that a repeated run knows it.
const underWay = "being moved from Quetz: "

// atOnce is how many calls about packages are made at the same time.
const atOnce = 8

// moveChannel moves a channel. It is private until it is complete.
func (m *quetzMove) moveChannel(ctx context.Context, ch *quetzdb.Channel, members []quetzdb.Member) error {
	ch.Description = clip(ch.Description, 300)
	old, err := m.c.Channel(ctx, ch.Name)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if err != nil {
		old = nil
	}
	fresh := old == nil || strings.HasPrefix(old.GetDescription(), underWay)
	switch {
	case old != nil && !fresh && !m.opts.merge && !sameChannel(old, ch):
		m.report.Channels.Skipped++
		m.report.problem("channel/"+ch.Name, "CHANNEL_EXISTS", "there is a channel of this name with other settings; --merge moves into it")
		return nil
	case old != nil && kindOfQuetz(ch) != old.GetKind():
		m.report.Channels.Skipped++
		m.report.problem("channel/"+ch.Name, "CHANNEL_KIND", "there is a channel of this name, and it is a %s channel", kindName(old.GetKind()))
		return nil
	case old == nil && !m.opts.dryRun:
		if err := m.createChannel(ctx, ch); err != nil {
			if fault.Is(err, fault.Invalid) {
				m.report.Channels.Skipped++
				m.report.problem("channel/"+ch.Name, "CHANNEL_INVALID", "%v", err)
				return nil
			}
			return err
		}
	}
	if fresh {
		m.report.Channels.Added++
	} else {
		m.report.Channels.Present++
	}
	m.done[ch.Name] = true
	if ch.MirrorURL == "" {
		if err := m.movePackages(ctx, ch, old != nil); err != nil {
			return err
		}
		if err := m.moveFiles(ctx, ch, old != nil); err != nil {
			return err
		}
	}
	if err := m.moveMembers(ctx, ch.Name, members); err != nil {
		return err
	}
	if err := m.moveDownloads(ctx, ch); err != nil {
		return fmt.Errorf("download counts: %w", err)
	}
	if fresh && !m.opts.dryRun {
		if err := m.complete(ctx, ch, members); err != nil {
			return err
		}
	}
	return m.moveMirrors(ctx, ch.Name)
}

func kindOfQuetz(ch *quetzdb.Channel) channelsv1.ChannelKind {
	switch {
	case ch.MirrorURL == "":
		return channelsv1.ChannelKind_CHANNEL_KIND_HOSTED
	case ch.MirrorMode == "proxy":
		return channelsv1.ChannelKind_CHANNEL_KIND_PROXY
	}
	return channelsv1.ChannelKind_CHANNEL_KIND_MIRROR
}

// sameChannel reports whether a channel here is the one there: then it was moved before.
func sameChannel(old *channelsv1.Channel, ch *quetzdb.Channel) bool {
	return old.GetDescription() == ch.Description && old.GetPrivate() == ch.Private && old.GetKind() == kindOfQuetz(ch) &&
		strings.TrimRight(old.GetMirror().GetUrl(), "/") == strings.TrimRight(ch.MirrorURL, "/")
}

func (m *quetzMove) createChannel(ctx context.Context, ch *quetzdb.Channel) error {
	private := true
	req := &channelsv1.CreateChannelRequest{Name: ch.Name, Description: clip(underWay+ch.Description, 300), Private: &private, Kind: kindOfQuetz(ch), Ttl: ch.TTL}
	if ch.MirrorURL != "" {
		req.Mirror = &channelsv1.MirrorSettings{Url: ch.MirrorURL, Includelist: ch.Includelist, Excludelist: ch.Excludelist, Proxylist: ch.Proxy}
	}
	_, err := m.c.CreateChannel(ctx, req)
	return err
}

// complete opens a channel to its readers. Who moved it has a part in it only if they had one there.
func (m *quetzMove) complete(ctx context.Context, ch *quetzdb.Channel, members []quetzdb.Member) error {
	fields := "private,description"
	if ch.SizeLimit != nil {
		fields += ",size_limit" // last: what is there may be more than the limit
	}
	if _, err := m.c.UpdateChannel(ctx, ch.Name, &channelsv1.Channel{Private: ch.Private, Description: ch.Description, SizeLimit: ch.SizeLimit}, fields); err != nil {
		return err
	}
	owned, mine := false, false
	for _, r := range members {
		owned = owned || r.Package == "" && r.Role == "owner" && m.users[r.UserID] != ""
		mine = mine || r.Package == "" && m.users[r.UserID] == m.me
	}
	if !owned || mine {
		return nil
	}
	err := m.c.RemoveMember(ctx, ch.Name, m.me)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// movePackages makes the packages, so that they have the texts that they had there.
func (m *quetzMove) movePackages(ctx context.Context, ch *quetzdb.Channel, there bool) error {
	theirs, err := m.db.Packages(ctx, ch.Name)
	if err != nil {
		return err
	}
	has := map[string]bool{}
	if there {
		ours, err := m.c.Packages(ctx, ch.Name, "", 0)
		if err != nil {
			return err
		}
		for _, p := range ours.GetPackages() {
			has[p.GetName()] = true
		}
	}
	r := &m.report.Packages
	r.Found += len(theirs)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, p := range theirs {
		if has[p.Name] {
			r.Present++
			continue
		}
		r.Added++
		if m.opts.dryRun {
			continue
		}
		g.Go(func() error {
			_, err := m.c.CreatePackage(ctx, ch.Name, &channelsv1.CreatePackageRequest{
				Name: p.Name, Summary: clipBytes(p.Summary), Description: clipBytes(p.Description), Url: clipBytes(p.URL),
			})
			if err != nil && !fault.Is(err, fault.Conflict) {
				return fmt.Errorf("package %s: %w", p.Name, err)
			}
			// Whoever makes a package owns it; here that is who moves it.
			if err := m.c.RemovePackageMember(ctx, ch.Name, p.Name, m.me); err != nil && !fault.Is(err, fault.NotFound) {
				return fmt.Errorf("package %s: %w", p.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func clip(s string, runes int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
	if utf8.RuneCountInString(s) <= runes {
		return s
	}
	return string([]rune(s)[:runes])
}

func clipBytes(s string) string { return clip(s, 4000) } // of at most four bytes each, 16 KiB together

// moveMembers gives the roles on a channel and its packages.
func (m *quetzMove) moveMembers(ctx context.Context, channel string, members []quetzdb.Member) error {
	r := &m.report.Members
	for _, b := range members {
		user := m.users[b.UserID]
		if user == "" {
			continue // of a key, or of a user who was left out and named
		}
		r.Found++
		if m.opts.dryRun {
			r.Added++
			continue
		}
		var err error
		if b.Package == "" {
			_, err = m.c.SetMember(ctx, channel, user, b.Role)
		} else {
			_, err = m.c.AddPackageMember(ctx, channel, b.Package, user, b.Role)
		}
		switch {
		case fault.Is(err, fault.Conflict): // there already
			r.Present++
		case fault.Is(err, fault.NotFound) || fault.Is(err, fault.Invalid):
			r.Skipped++
			m.report.problem("channel/"+channel, "ROLE", "%s as %s of %s: %v", user, b.Role, path.Join(channel, b.Package), err)
		case err != nil:
			return err
		default:
			r.Added++
		}
	}
	return nil
}

// moveMirrors registers the channel's mirrors. They are asked whether they are some, so one that is away is named.
func (m *quetzMove) moveMirrors(ctx context.Context, channel string) error {
	mirrors, err := m.db.Mirrors(ctx, channel)
	if err != nil {
		return err
	}
	r := &m.report.Mirrors
	for _, x := range mirrors {
		r.Found++
		if m.opts.dryRun {
			r.Added++
			continue
		}
		_, err := m.c.RegisterMirror(ctx, channel, &channelsv1.RegisterMirrorRequest{Url: x.URL, ApiEndpoint: x.APIEndpoint, MetricsEndpoint: x.MetricsEndpoint})
		if fault.Is(err, fault.Unauthenticated) || fault.Is(err, fault.Denied) || ctx.Err() != nil {
			return err
		}
		if err != nil {
			r.Skipped++
			m.report.problem("channel/"+channel, "MIRROR", "the mirror %s: %v", x.URL, err)
			continue
		}
		r.Added++
	}
	return nil
}
