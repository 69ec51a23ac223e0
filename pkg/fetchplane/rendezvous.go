package fetchplane

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
)

// RouteKey is what a file is placed by. Index files of a directory share one, since they come from one read of upstream.
func RouteKey(channelID, path string) string {
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	if strings.HasPrefix(name, "repodata") || strings.HasPrefix(name, "current_repodata") {
		return channelID + "\x00" + dir
	}
	return channelID + "\x00" + path
}

// Order returns the nodes in the order in which to ask them for key: by rendezvous (highest random weight) hashing, so
// that adding or removing a node moves only the keys of that node.
func Order(nodes []string, key string) []string {
	type weighted struct {
		node   string
		weight uint64
	}
	all := make([]weighted, 0, len(nodes))
	for _, n := range nodes {
		sum := sha256.Sum256([]byte(n + "\x00" + key))
		all = append(all, weighted{n, binary.BigEndian.Uint64(sum[:])})
	}
	slices.SortFunc(all, func(a, b weighted) int {
		switch {
		case a.weight > b.weight:
			return -1
		case a.weight < b.weight:
			return 1
		}
		return strings.Compare(a.node, b.node)
	})
	out := make([]string, len(all))
	for i, w := range all {
		out[i] = w.node
	}
	return out
}
