package upkeeptest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// served is what an installation has shown, by path.
type served map[string][]byte

func (s served) compare(t *testing.T, url, key string, except ...string) {
	t.Helper()
	for path, want := range s {
		status, got := get(t, "GET", url+path, key, nil)
		if len(except) > 0 && strings.HasSuffix(path, except[0]) {
			if status == 200 {
				t.Errorf("%s is served, though its blob is nowhere", path)
			}
			continue
		}
		if status != 200 || !bytes.Equal(got, want) {
			t.Errorf("%s: status %d, %d bytes, not the %d bytes of before", path, status, len(got), len(want))
		}
	}
}

func TestAnInstallationIsBuiltAnewFromItsBackup(t *testing.T) {
	root := place(t)
	dir := filepath.Join(root, "data")
	url, stop := serve(t, dir)
	key := trimmed(t, filepath.Join(dir, "admin-key"))
	if status, body := get(t, "POST", url+"/api/channels", key, []byte(`{"name": "main", "private": true}`)); status != 201 {
		t.Fatalf("%d %s", status, body)
	}
	before := served{}
	all := files(t)[:8]
	for _, f := range all {
		if status, body := get(t, "POST", url+"/api/channels/main/upload/"+f.name+"?sha256="+f.sha256, key, f.data); status != 201 {
			t.Fatalf("upload %s: %d %s", f.name, status, body)
		}
		before["/channels/main/"+f.path] = f.data
	}
	for _, subdir := range []string{"linux-64", "noarch"} {
		path := "/channels/main/" + subdir + "/repodata.json"
		eventually(t, "an index that lists all", func() bool {
			status, body := get(t, "GET", url+path, key, nil)
			before[path] = body
			for _, f := range all {
				if strings.HasPrefix(f.path, subdir+"/") && !bytes.Contains(body, []byte(f.sha256)) {
					return false
				}
			}
			return status == 200
		})
	}
	status, second := get(t, "POST", url+"/entrepot/v1/api-keys", key, []byte(`{"description": "another"}`))
	if status != 200 {
		t.Fatalf("%d %s", status, second)
	}

	tar, tree, list := filepath.Join(root, "live.tar"), filepath.Join(root, "stopped"), filepath.Join(root, "manifest")
	backup := func(path string, more ...string) {
		t.Helper()
		out, errs, err := command(t, append([]string{"backup", path, "--data-dir", dir}, more...)...)
		if err != nil || !strings.Contains(out, "blobs") {
			t.Fatalf("backup: %v\n%s%s", err, out, errs)
		}
	}
	backup(tar, "--blobs") // while it runs
	if _, _, err := command(t, "backup", tar, "--data-dir", dir); !fault.Is(err, fault.Conflict) {
		t.Errorf("a backup over another: %v", err)
	}
	stop()
	backup(tree, "--blobs")
	backup(list)
	blobs := filepath.Join(root, "blobs")
	if err := os.Rename(filepath.Join(dir, "blobs"), blobs); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil { // the disaster
		t.Fatal(err)
	}

	t.Run("from a tar", func(t *testing.T) {
		out, errs, err := command(t, "restore", tar, "--data-dir", dir)
		if err != nil || !strings.Contains(out, "restored the backup of ") {
			t.Fatalf("restore: %v\n%s%s", err, out, errs)
		}
		if _, _, err := command(t, "restore", tar, "--data-dir", dir); !fault.Is(err, fault.Precondition) {
			t.Errorf("a restore over an installation: %v", err)
		}
		url, stop := serve(t, dir)
		defer stop()
		before.compare(t, url, key)
		if status, body := get(t, "GET", url+"/entrepot/v1/me", key, nil); status != 200 {
			t.Errorf("the old key: %d %s", status, body)
		}
		if status, _ := get(t, "GET", url+"/channels/main/noarch/repodata.json", "", nil); status == 200 {
			t.Error("the private channel is open")
		}
		f := files(t)[10]
		if status, body := get(t, "POST", url+"/api/channels/main/upload/"+f.name+"?sha256="+f.sha256, key, f.data); status != 201 {
			t.Errorf("an upload afterwards: %d %s", status, body)
		}
	})
	t.Run("from a directory that lost a blob", func(t *testing.T) {
		dir := filepath.Join(root, "second")
		lost := all[3]
		if err := os.Remove(filepath.Join(tree, "blobs", lost.sha256[:2], lost.sha256)); err != nil {
			t.Fatal(err)
		}
		out, _, err := command(t, "restore", tree, "--data-dir", dir)
		if err == nil || !strings.Contains(out, "missing "+lost.sha256) {
			t.Fatalf("restore: %v\n%s", err, out)
		}
		url, stop := serve(t, dir)
		defer stop()
		before.compare(t, url, key, lost.path)
	})
	t.Run("from a manifest and the blobs by other means", func(t *testing.T) {
		dir := filepath.Join(root, "third")
		out, errs, err := command(t, "restore", list, "--data-dir", dir, "--blob-url", blobs)
		if err != nil || !strings.Contains(out, " 0 blobs from it") {
			t.Fatalf("restore: %v\n%s%s", err, out, errs)
		}
	})
	t.Run("a damaged backup is refused, and leaves the place free", func(t *testing.T) {
		dir := filepath.Join(root, "fourth")
		dump := filepath.Join(tree, "database.dump")
		data, err := os.ReadFile(dump)
		if err != nil {
			t.Fatal(err)
		}
		broken := bytes.Clone(data)
		broken[len(broken)/2] ^= 1
		for name, bad := range map[string][]byte{"a flipped bit": broken, "a part": data[:len(data)-100]} {
			if err := os.WriteFile(dump, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, _, err := command(t, "restore", tree, "--data-dir", dir); !fault.Is(err, fault.Invalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := os.WriteFile(dump, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, _, err := command(t, "restore", tree, "--data-dir", dir, "--blob-url", blobs); err != nil {
			t.Errorf("restore afterwards: %v\n%s", err, out)
		}
	})
	t.Run("nobody else may read it", func(t *testing.T) {
		for _, path := range []string{tar, tree, filepath.Join(tree, "master-key")} {
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
			}
		}
	})
}

func TestWhatIsNoBackupIsRefused(t *testing.T) {
	root := place(t)
	empty := filepath.Join(root, "empty")
	text := filepath.Join(root, "text.tar")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(text, fmt.Appendf(nil, "%4000s", "no tar"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{empty, text} {
		if _, _, err := command(t, "restore", path, "--data-dir", filepath.Join(root, "data")); !fault.Is(err, fault.Invalid) {
			t.Errorf("restore of %s: %v", path, err)
		}
	}
	if _, _, err := command(t, "backup", filepath.Join(root, "b"), "--data-dir", filepath.Join(root, "nothing")); err == nil {
		t.Error("a backup of nothing was made")
	}
}
