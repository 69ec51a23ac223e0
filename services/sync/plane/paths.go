package plane

import (
	"encoding/hex"
	"path"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

const (
	nameFull    = "repodata.json"
	nameCurrent = "current_repodata.json"
	nameShards  = "repodata_shards.msgpack.zst"
	shardsDir   = "shards"
	shardSuffix = ".msgpack.zst"
)

// kind is what a path asks for.
type kind uint8

const (
	kindFile kind = iota
	kindPackage
	kindShard
	kindFull
	kindShards
)

// classify goes by the path alone.
func classify(p string) (k kind, dir, name string) {
	dir, name = split(p)
	if dir == "" {
		return kindFile, dir, name // no subdir: nothing lists it
	}
	switch {
	case isPackage(name):
		return kindPackage, dir, name
	case name == nameShards:
		return kindShards, dir, name
	}
	for _, base := range []string{nameFull, nameCurrent} {
		if suffix, ok := strings.CutPrefix(name, base); ok && slices.Contains([]string{"", ".zst", ".bz2", ".gz"}, suffix) {
			return kindFull, dir, name
		}
	}
	if up, last := split(dir); last == shardsDir && up != "" && shardDigest(name) != nil {
		return kindShard, up, name
	}
	return kindFile, dir, name
}

func isPackage(name string) bool {
	_, _, ok := dist.SplitExtension(name)
	return ok
}

// packageOf returns the package's name in a file name.
func packageOf(filename string) (string, bool) {
	d, err := dist.ParseFilename(filename)
	return d.Name, err == nil
}

// shardDigest returns the digest that a shard's file name is, or nil.
func shardDigest(name string) []byte {
	h, ok := strings.CutSuffix(name, shardSuffix)
	if !ok || strings.ToLower(h) != h {
		return nil
	}
	b, err := hex.DecodeString(h)
	if err != nil || len(b) != 32 {
		return nil
	}
	return b
}

// indexLike reports whether a document is one that says what there is, and so must be current.
func indexLike(p string) bool {
	switch path.Ext(p) {
	case ".json", ".zst", ".bz2", ".gz", ".xml", ".msgpack":
		return !isPackage(p)
	}
	return false
}

// serves reports whether the channel has anything to do with a directory.
func serves(m *channelsv1.MirrorSettings, dir string) bool {
	only := m.GetSubdirs()
	if len(only) == 0 || dir == "" {
		return true
	}
	_, last := split(dir)
	return last == "noarch" || slices.Contains(only, last)
}

func narrowed(m *channelsv1.MirrorSettings) bool {
	return len(m.GetIncludelist()) > 0 || len(m.GetExcludelist()) > 0
}

// isUnpatched reports whether a document lists records like the index does, but is not narrowed by the lists.
func isUnpatched(name string) bool {
	return strings.HasPrefix(name, "repodata_from_packages.json") || strings.HasPrefix(name, "run_exports.json")
}
