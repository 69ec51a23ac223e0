package plan

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
)

// Version is the form's version that this package writes, and the only one it reads.
const Version = 1

// Reason is the reason of the faults of this package that are about a plan's content.
const Reason = "PLAN_INVALID"

// Limits bound what a reader takes. A zero field takes the default's value.
type Limits struct {
	// Entries in a plan. The largest subdirs of public channels have some 600,000 records.
	Entries int64
	// Message is the largest header or entry, in bytes. A header carries the `removed` names of whole subdirs.
	Message int
	// Bytes is the size of the plan when unpacked.
	Bytes int64
}

// DefaultLimits fit a plan of the largest public channel, all subdirs together, several times over.
func DefaultLimits() Limits {
	return Limits{Entries: 8 << 20, Message: 32 << 20, Bytes: 16 << 30}
}

func (l Limits) orDefault() Limits {
	d := DefaultLimits()
	if l.Entries <= 0 {
		l.Entries = d.Entries
	}
	if l.Message <= 0 {
		l.Message = d.Message
	}
	if l.Bytes <= 0 {
		l.Bytes = d.Bytes
	}
	return l
}

// Limits of single fields in bytes. Upstream records are strangers' bytes: nothing real comes near.
const (
	maxText   = 4 << 10
	maxRecord = 8 << 20
	maxFormat = 64
)

func invalid(format string, args ...any) error {
	return fault.New(fault.Invalid, "plan: "+format, args...).WithReason(Reason)
}

func checkHeader(h *channelsv1.PlanHeader) error {
	if h.GetVersion() != Version {
		return invalid("version %d is not known, only %d", h.GetVersion(), Version)
	}
	if h.GetFormat() == "" || len(h.GetFormat()) > maxFormat {
		return invalid("the header names no content format")
	}
	if h.GetEntries() < 0 {
		return invalid("the header promises %d entries", h.GetEntries())
	}
	seen := make(map[string]bool, len(h.GetSubdirs()))
	for _, s := range h.GetSubdirs() {
		name, err := names.CleanPath(s.GetSubdir(), names.InField("subdir"))
		if err != nil {
			return invalid("%w", err)
		}
		if seen[name] {
			return invalid("subdir %s is there twice", name)
		}
		seen[name] = true
		if len(s.GetInfo()) > 0 && !object(s.GetInfo()) {
			return invalid("info of subdir %s is not a JSON object", name)
		}
	}
	return nil
}

// checkEntry checks e by itself and against the path before it.
func checkEntry(e *channelsv1.PlanEntry, before string) error {
	p, err := names.CleanPath(e.GetPath())
	if err != nil {
		return invalid("%w", err)
	}
	if before != "" && p <= before {
		if p == before {
			return invalid("path %s is there twice", p)
		}
		return invalid("path %s comes after %s", p, before)
	}
	switch {
	case len(e.GetSha256()) != 0 && len(e.GetSha256()) != sha256.Size:
		return invalid("%s: a SHA-256 has %d bytes, not %d", p, sha256.Size, len(e.GetSha256()))
	case len(e.GetMd5()) != 0 && len(e.GetMd5()) != md5.Size:
		return invalid("%s: an MD5 has %d bytes, not %d", p, md5.Size, len(e.GetMd5()))
	case e.GetKeep() && e.GetRedirect():
		return invalid("%s: an entry is kept or redirected, not both", p)
	case len(e.GetName()) > maxText, len(e.GetVersion()) > maxText, len(e.GetBuild()) > maxText,
		len(e.GetArch()) > maxText, len(e.GetUrl()) > maxText:
		return invalid("%s: a field is longer than %d bytes", p, maxText)
	case len(e.GetRecord()) > maxRecord:
		return invalid("%s: the record is longer than %d bytes", p, maxRecord)
	case len(e.GetRecord()) > 0 && !object(e.GetRecord()):
		return invalid("%s: the record is not a JSON object", p)
	}
	return nil
}

// object is a cheap look at the ends; whoever uses the bytes parses them.
func object(raw []byte) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) >= 2 && raw[0] == '{' && raw[len(raw)-1] == '}'
}
