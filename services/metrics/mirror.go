package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// A mirror is a stranger. These bound what it may say.
const (
	askTimeout = 2 * time.Minute
	// maxAnswer is about a million points.
	maxAnswer = 64 << 20
	// maxPaths and maxPoints bound one answer.
	maxPaths  = 200_000
	maxPoints = 2_000_000
	// maxCount is more than anybody downloads a file in an hour.
	maxCount = 1_000_000_000
	// clockSlack is how far behind a mirror's clock may be and still be believed.
	clockSlack = 10 * time.Minute
)

// naive is how the dialect writes times: UTC without a zone.
const naive = "2006-01-02T15:04:05"

// answer is what a mirror told of the hours in [from, until); from is zero the first time.
type answer struct {
	from, until time.Time
	paths       []string
	counts      []count // without their channel
	refused     *int64
}

// take notes a point, or refuses it.
func (a *answer) take(path string, at time.Time, n int64) {
	at = at.UTC()
	if n < 1 || n > maxCount || at.Before(a.from) || !at.Before(a.until) || at.Year() < 2000 || !at.Equal(at.Truncate(time.Hour)) {
		*a.refused++
		return
	}
	a.counts = append(a.counts, count{path: path, at: at, n: n})
}

// behind shortens the answer for a mirror whose clock says that its last hours are not over yet.
func (a *answer) behind(serverTime string, now time.Time) {
	t, err := parseTime(serverTime)
	if err != nil || !t.Before(a.until) || now.Sub(t) > clockSlack {
		return
	}
	a.until = t.Truncate(time.Hour)
	kept := a.counts[:0]
	for _, c := range a.counts {
		if c.at.Before(a.until) {
			kept = append(kept, c)
		}
	}
	a.counts = kept
}

func (w *worker) ask(ctx context.Context, ch *channelsv1.Channel, endpoint string, a *answer) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if name, ok := w.inside(endpoint); ok {
		return w.askInside(ctx, ch, name, a)
	}
	// The order and the spelling are those that mirrors know.
	query := "period=H"
	if !a.from.IsZero() {
		query += "&start=" + a.from.Format(naive)
	}
	query += "&end=" + a.until.Format(naive)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"?"+query, nil)
	if err != nil {
		return fault.New(fault.Upstream, "the mirror's metrics have no usable address")
	}
	r.Header.Set("Accept", "application/json")
	resp, err := w.HTTP.Do(r)
	if err != nil {
		return fault.New(fault.Upstream, "the mirror cannot be reached: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fault.New(fault.Upstream, "the mirror answers %d", resp.StatusCode)
	}
	body := &io.LimitedReader{R: resp.Body, N: maxAnswer + 1}
	serverTime, err := a.read(json.NewDecoder(body))
	if body.N <= 0 {
		return fault.New(fault.Upstream, "the mirror's answer has more than %d bytes", maxAnswer)
	}
	if err != nil {
		return fault.New(fault.Upstream, "the mirror's answer cannot be read: %w", err)
	}
	a.behind(serverTime, w.Now())
	return nil
}

// read takes the points of an answer as they stream in. Keys that are not known are passed over.
func (a *answer) read(d *json.Decoder) (serverTime string, err error) {
	known := false
	err = object(d, func(key string) error {
		switch key {
		case "server_timestamp":
			return d.Decode(&serverTime)
		case "period":
			var p string
			if err := d.Decode(&p); err != nil || p != "H" {
				return errors.Join(err, errors.New("the points are not hours"))
			}
			return nil
		case "packages":
			known = true
			return object(d, func(path string) error { return a.readFile(d, path) })
		}
		var skip json.RawMessage
		return d.Decode(&skip)
	})
	if err == nil && !known {
		err = errors.New("it has no packages")
	}
	return serverTime, err
}

func (a *answer) readFile(d *json.Decoder, path string) error {
	if len(a.paths) >= maxPaths {
		return errors.New("it names too many files")
	}
	clean, err := names.CleanPath(path)
	good := err == nil && packageName(clean) != "" && strings.Count(clean, "/") == 1
	if good {
		a.paths = append(a.paths, clean)
	}
	var file struct {
		Series []struct {
			Timestamp string `json:"timestamp"`
			Count     int64  `json:"count"`
		} `json:"series"`
	}
	if err := d.Decode(&file); err != nil {
		return err
	}
	if len(a.counts)+len(file.Series) > maxPoints {
		return errors.New("it has too many points")
	}
	for _, p := range file.Series {
		at, err := parseTime(p.Timestamp)
		if err != nil || !good {
			*a.refused++
			continue
		}
		a.take(clean, at, p.Count)
	}
	return nil
}

// object reads an object key by key; each must read its value.
func object(d *json.Decoder, each func(key string) error) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.Join(err, errors.New("an object is missing"))
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		if err := each(key.(string)); err != nil { // keys are strings, or Token fails
			return err
		}
	}
	_, err := d.Token()
	return err
}

func parseTime(s string) (t time.Time, err error) {
	for _, layout := range []string{"2006-01-02T15:04:05.999999999", time.RFC3339Nano} {
		if t, err = time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return t, err
}

// inside returns the channel that an endpoint on this server is about; ok is false for endpoints elsewhere.
func (w *worker) inside(endpoint string) (channel string, ok bool) {
	u, err := url.Parse(endpoint)
	own, oerr := url.Parse(w.PublicURL)
	if err != nil || oerr != nil || own.Host == "" || !strings.EqualFold(u.Scheme, own.Scheme) || !strings.EqualFold(u.Host, own.Host) {
		return "", false
	}
	name, ok := strings.CutPrefix(strings.TrimRight(u.Path, "/"), strings.TrimRight(own.Path, "/")+"/metrics/channels/")
	if !ok || strings.Contains(name, "/") {
		return "", true // ours, but of no channel
	}
	return name, true
}

// askInside reads the counts of a channel of this server, as far as whoever asked for the job may.
func (w *worker) askInside(ctx context.Context, ch *channelsv1.Channel, name string, a *answer) error {
	mirror, err := w.Channels.GetChannel(ctx, &channelsv1.GetChannelRequest{Channel: name})
	if err == nil {
		err = w.Roles.Allow(ctx, authn.FromContext(ctx), authz.ChannelRead, resourceOf(mirror))
	}
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Denied) || fault.Is(err, fault.Unauthenticated) || fault.Is(err, fault.Invalid) {
		return fault.New(fault.Upstream, "the mirror cannot be asked: it is a channel of this server that is gone or private")
	}
	if err != nil {
		return err
	}
	if mirror.GetId() == ch.GetId() {
		return fault.New(fault.Upstream, "the mirror is the channel itself")
	}
	id, err := uuid.Parse(mirror.GetId())
	if err != nil {
		return err
	}
	win := window{period: hour, from: a.from, to: a.until}
	for after := ""; ; {
		files, err := w.store.files(ctx, id, after, "", "", maxPage, win)
		if err != nil {
			return err
		}
		for _, f := range files {
			a.paths = append(a.paths, f.path)
			for _, p := range f.points {
				a.take(f.path, p.At, p.N)
			}
		}
		if len(files) < maxPage {
			return nil
		}
		after = files[len(files)-1].path
	}
}
