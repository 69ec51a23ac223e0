package plane

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

func TestClassify(t *testing.T) {
	hex := strings.Repeat("0a", 32)
	for path, want := range map[string]kind{
		"noarch/a-1.0-0.conda":                                   kindPackage,
		"label/dev/linux-64/a-1.0-0.tar.bz2":                     kindPackage,
		"a-1.0-0.conda":                                          kindFile,
		"noarch/repodata.json":                                   kindFull,
		"noarch/repodata.json.zst":                               kindFull,
		"noarch/repodata.json.bz2":                               kindFull,
		"noarch/repodata.json.gz":                                kindFull,
		"noarch/repodata.json.xz":                                kindFile,
		"noarch/current_repodata.json":                           kindFull,
		"repodata.json":                                          kindFile,
		"noarch/repodata_from_packages.json":                     kindFile,
		"noarch/repodata_shards.msgpack.zst":                     kindShards,
		"noarch/shards/" + hex + ".msgpack.zst":                  kindShard,
		"noarch/shards/" + hex[1:] + ".msgpack.zst":              kindFile,
		"noarch/shards/" + strings.ToUpper(hex) + ".msgpack.zst": kindFile,
		"shards/" + hex + ".msgpack.zst":                         kindFile,
		"channeldata.json":                                       kindFile,
	} {
		if got, _, _ := classify(path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	if _, dir, name := classify("linux-64/shards/" + hex + ".msgpack.zst"); dir != "linux-64" || name != hex+".msgpack.zst" {
		t.Errorf("%s, %s", dir, name)
	}
}

func TestShareOf(t *testing.T) {
	for _, c := range []struct {
		include, exclude []string
		name             string
		want             share
	}{
		{nil, nil, "numpy", all},
		{[]string{"num"}, nil, "numpy", all},
		{[]string{"numpy-"}, nil, "numpy", all},
		{[]string{"numpy-1"}, nil, "numpy", some},
		{[]string{"numpy-1"}, nil, "numpy-financial", none},
		{[]string{"numpy-fin"}, nil, "numpy", some}, // a version could begin so
		{[]string{"numpy-1", "n"}, nil, "numpy", all},
		{[]string{"scipy"}, nil, "numpy", none},
		{nil, []string{"num"}, "numpy", none},
		{nil, []string{"numpy-1"}, "numpy", some},
		{nil, []string{"scipy"}, "numpy", all},
	} {
		m := &channelsv1.MirrorSettings{Includelist: c.include, Excludelist: c.exclude}
		if got := shareOf(m, c.name); got != c.want {
			t.Errorf("%v %v %s: %d, want %d", c.include, c.exclude, c.name, got, c.want)
		}
	}
}

func TestAMemoForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemo(time.Now)
		why := errors.New("why")
		m.put("a", why, time.Second)
		m.put("b", why, 0)
		if m.get("a") != why || m.get("b") != nil {
			t.Error("what was put is not what is there")
		}
		time.Sleep(time.Second)
		if m.get("a") != nil {
			t.Error("it remembers for too long")
		}
		for i := range 2 * memoEntries {
			m.put(string(rune(i)), why, time.Hour)
		}
		if n := m.entries.Len(); n > memoEntries {
			t.Errorf("%d entries", n)
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"a negative ttl": func(c *Config) { c.IndexTTL = -1 }, "a short lease": func(c *Config) { c.LeaseTTL = time.Millisecond },
		"no flights": func(c *Config) { c.Flights = 0 },
	} {
		c := DefaultConfig()
		change(&c)
		if c.Validate() == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
