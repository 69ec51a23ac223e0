package lock_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/lock"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

func TestNoSecretsAreWritten(t *testing.T) {
	const channel, clean = "https://user:SECRET@host/t/SECRET/chan", "https://host/chan"
	packages := map[string][]lock.Package{"linux-64": nil}
	for _, name := range []string{"b", "a"} {
		packages["linux-64"] = append(packages["linux-64"], lock.Package{
			Manager: lock.Conda, Location: channel + "/linux-64/" + name + "-1-0.conda?sig=SECRET", Channel: channel, FileName: name + "-1-0.conda",
			Record: repodata.Record{Name: name, Version: "1", Build: "0", Subdir: "linux-64", MD5: strings.Repeat("0", 32)},
		})
	}
	pixi, err := lock.NewPixi(7, map[string]lock.PixiEnvironment{"default": {Channels: []string{channel}, Packages: packages}})
	if err != nil {
		t.Fatal(err)
	}
	condaLock, err := lock.NewCondaLock(packages, lock.CondaLockOptions{Channels: []string{channel}, Hashes: map[string]string{"linux-64": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	explicit := &lock.Explicit{Packages: packages["linux-64"]}
	for name, data := range map[string][]byte{"pixi": pixi.Bytes(), "conda-lock": condaLock.Bytes(), "explicit": explicit.Bytes()} {
		text := string(data)
		if strings.Contains(text, "SECRET") || strings.Contains(text, "user") || !strings.Contains(text, clean+"/linux-64/b-1-0.conda") {
			t.Errorf("%s:\n%s", name, text)
		}
	}
	read, err := lock.ParsePixi(pixi.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	list, err := read.Packages("default", "linux-64")
	if err != nil || len(list) != 2 || list[0].Channel != clean {
		t.Errorf("%+v %v", list, err)
	}
	if diff := cmp.Diff([]string{clean}, read.Channels("default")); diff != "" {
		t.Error(diff)
	}
	if packages["linux-64"][0].Channel != channel {
		t.Error("the caller's packages were changed: they are fetched with the secret")
	}
}
