package edge

import (
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// A channel's name in a path may say which of its revisions is meant: main@17, main@2026-11-21T16:00:00Z,
// main@2026-11-21 (its beginning, in UTC). What such a path serves never changes.

// pin is the revision that a path names; the zero value is the head.
type pin struct {
	revision int64
	at       time.Time // UTC
}

// pinSettled is how old a date must be for its revision to be final: a publication under way takes the time when it began.
const pinSettled = time.Hour

// cutPin splits a channel's name as it stands in a path.
func cutPin(s string) (channel string, p pin, err error) {
	channel, text, ok := strings.Cut(s, "@")
	if !ok {
		return s, pin{}, nil
	}
	if n, err := strconv.ParseUint(text, 10, 63); err == nil && n > 0 {
		return channel, pin{revision: int64(n)}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, strings.ToUpper(text)); err == nil { // RFC 3339 allows t and z
			return channel, pin{at: t.UTC()}, nil
		}
	}
	return "", pin{}, fault.New(fault.NotFound, "%s not found: %s is neither a revision nor an RFC 3339 date", printable(s), printable(text))
}

func (p pin) zero() bool { return p == pin{} }

// final reports whether the pin means the same revision for ever.
func (p pin) final(now time.Time) bool {
	return p.revision != 0 || !p.at.IsZero() && now.Sub(p.at) > pinSettled
}

func (p pin) set(req *channelsv1.ResolveRequest) {
	req.Revision = p.revision
	if !p.at.IsZero() {
		req.At = timestamppb.New(p.at)
	}
}

// String is what stands behind the channel's name.
func (p pin) String() string {
	switch {
	case p.revision != 0:
		return "@" + strconv.FormatInt(p.revision, 10)
	case !p.at.IsZero():
		return "@" + p.at.Format(time.RFC3339Nano)
	}
	return ""
}
