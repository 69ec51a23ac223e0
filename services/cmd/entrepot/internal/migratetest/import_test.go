package migratetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

func TestImport(t *testing.T) {
	s := platformtest.Start(t)

	t.Run("an indexed tree comes over once, with what its index says", func(t *testing.T) {
		ch := tree(t, 24)
		noarch, linux := inSubdir(ch, "noarch"), inSubdir(ch, "linux-64")
		edit(t, ch, "linux-64", func(doc map[string]any) {
			r := recordOf(doc, linux[0])
			r["depends"] = []string{"patched >=1,<2"}
			r["indexed_timestamp"] = 1500000000000
			delete(doc["packages.conda"].(map[string]any), filepath.Base(linux[1]))
			doc["removed"] = []string{filepath.Base(linux[1])}
		})
		edit(t, ch, "noarch", func(doc map[string]any) {
			recordOf(doc, noarch[0])["sha256"] = strings.Repeat("0", 64)
			recordOf(doc, noarch[1])["version"] = "99"
		})
		if err := os.WriteFile(filepath.Join(ch.Dir, filepath.FromSlash(linux[2])), []byte("no archive"), 0o644); err != nil {
			t.Fatal(err)
		}
		edit(t, ch, "linux-64", func(doc map[string]any) {
			r := recordOf(doc, linux[2])
			for _, k := range []string{"sha256", "md5", "size"} {
				delete(r, k)
			}
		})

		o := run(t, s, s.AdminKey, "channel", "import", "moved", ch.Dir, "--dry-run", "--create", "-o", "json")
		if r := o.report(t); o.err != nil || r.Added != 23 || r.Unlisted != 1 {
			t.Fatalf("%+v %+v", r, o.err)
		}
		s.Admin().Must(404, "GET", "/entrepot/v1/channels/moved", nil)

		o = run(t, s, s.AdminKey, "channel", "import", "moved", ch.Dir, "--create", "--concurrency", "1", "-o", "json")
		r := o.report(t)
		if o.err == nil || r.Found != 24 || r.Added != 20 || r.Unlisted != 1 || r.Revisions != 1 {
			t.Fatalf("%+v %v", r, o.err)
		}
		got := map[string]string{}
		for _, p := range r.Problems {
			got[p.Path] = p.Reason
		}
		if d := cmp.Diff(map[string]string{noarch[0]: "DIGEST_MISMATCH", noarch[1]: "RECORD_MISMATCH", linux[2]: "PACKAGE_INVALID"}, got); d != "" {
			t.Errorf("problems (-want +got):\n%s", d)
		}
		if n := query[int64](t, s, `SELECT indexed_ms FROM channels.files WHERE path = $1`, linux[0]); n != 1500000000000 {
			t.Errorf("listed at %d", n)
		}
		record := query[string](t, s, `SELECT convert_from(record, 'UTF8') FROM channels.files WHERE path = $1`, linux[0])
		if !strings.Contains(record, `"depends":["patched >=1,<2"]`) || strings.Contains(record, "indexed_timestamp") {
			t.Errorf("the record is %s", record)
		}
		s.Admin().Must(200, "GET", "/channels/moved/"+linux[0], nil)

		head := query[int64](t, s, `SELECT head FROM channels.channels WHERE name = 'moved'`)
		o = run(t, s, s.AdminKey, "channel", "import", "moved", ch.Dir, "-o", "json")
		if r := o.report(t); r.Added != 0 || r.Present != 20 || r.Revisions != 0 || len(r.Problems) != 3 {
			t.Errorf("the second time: %+v", r)
		}
		if h := query[int64](t, s, `SELECT head FROM channels.channels WHERE name = 'moved'`); h != head {
			t.Errorf("the head went from %d to %d", head, h)
		}
	})

	t.Run("without an index the packages speak for themselves, where they belong", func(t *testing.T) {
		ch := tree(t, 10)
		linux, noarch := inSubdir(ch, "linux-64"), inSubdir(ch, "noarch")
		for _, f := range ch.Index {
			if err := os.Remove(filepath.Join(ch.Dir, filepath.FromSlash(f.Path))); err != nil {
				t.Fatal(err)
			}
		}
		lost := filepath.Join("noarch", filepath.Base(linux[0]))
		if err := os.Rename(filepath.Join(ch.Dir, filepath.FromSlash(linux[0])), filepath.Join(ch.Dir, lost)); err != nil {
			t.Fatal(err)
		}
		outside := filepath.Join(t.TempDir(), "secret-1-0.conda")
		if err := os.WriteFile(outside, []byte("not yours"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, filepath.Join(ch.Dir, "noarch", "secret-1-0.conda")); err != nil {
			t.Fatal(err)
		}
		o := run(t, s, s.AdminKey, "channel", "import", "plain", ch.Dir, "--create", "-o", "json")
		r := o.report(t)
		if r.Found != len(linux)+len(noarch) || r.Added != r.Found-1 || len(r.Problems) != 1 || r.Problems[0].Reason != "RECORD_MISMATCH" {
			t.Fatalf("%+v %v", r, o.err)
		}
		if r := run(t, s, s.AdminKey, "channel", "import", "plain", ch.Dir, "-o", "json").report(t); r.Present != len(linux)+len(noarch)-1 || r.Bytes == 0 && r.Added != 0 {
			t.Errorf("the second time: %+v", r)
		}
	})

	t.Run("a file of the same name is kept unless force says otherwise", func(t *testing.T) {
		ch := tree(t, 8)
		ok(t, s, "channel", "import", "kept", ch.Dir, "--create")
		first := inSubdir(ch, ch.Subdirs[0])[0]
		subdir := ch.Subdirs[0]
		edit(t, ch, subdir, func(doc map[string]any) { recordOf(doc, first)["depends"] = []string{"newer"} })
		if r := run(t, s, s.AdminKey, "channel", "import", "kept", ch.Dir, "-o", "json").report(t); r.Present != 8 || r.Added != 0 {
			t.Errorf("%+v", r)
		}
		if r := run(t, s, s.AdminKey, "channel", "import", "kept", ch.Dir, "--force", "-o", "json").report(t); r.Present != 7 || r.Added != 1 {
			t.Errorf("%+v", r)
		}
		if got := query[string](t, s, `SELECT convert_from(record, 'UTF8') FROM channels.files WHERE path = $1 AND removed_rev IS NULL
			AND channel_id = (SELECT id FROM channels.channels WHERE name = 'kept')`, first); !strings.Contains(got, `"depends":["newer"]`) {
			t.Errorf("the record is %s", got)
		}
	})

	t.Run("who may not upload imports nothing, and a maintainer sets no past", func(t *testing.T) {
		ch := tree(t, 8)
		first := inSubdir(ch, ch.Subdirs[0])[0]
		edit(t, ch, ch.Subdirs[0], func(doc map[string]any) { recordOf(doc, first)["indexed_timestamp"] = 1500000000000 })
		ok(t, s, "channel", "create", "guarded")
		if o := run(t, s, s.User("dave").Key, "channel", "import", "guarded", ch.Dir); o.err == nil || !strings.Contains(o.err.Error(), "No permission") && !strings.Contains(strings.ToLower(o.err.Error()), "permission") {
			t.Errorf("a stranger: %v", o.err)
		}
		ok(t, s, "channel", "member", "add", "guarded", "carol", "--role", "maintainer")
		o := run(t, s, s.User("carol").Key, "channel", "import", "guarded", ch.Dir, "-o", "json")
		if r := o.report(t); o.err != nil || r.Added != 8 {
			t.Fatalf("%+v %v", r, o.err)
		}
		if n := query[int64](t, s, `SELECT indexed_ms FROM channels.files WHERE path = $1 AND channel_id = (SELECT id FROM channels.channels WHERE name = 'guarded')`, first); n == 1500000000000 {
			t.Error("a maintainer, who may not replace files, dated one back")
		}
		if o := run(t, s, s.User("carol").Key, "channel", "import", "guarded", ch.Dir, "--force"); o.err == nil {
			t.Error("a maintainer replaced files")
		}
	})

	t.Run("a quota stops an import with what fitted in place", func(t *testing.T) {
		ch := tree(t, 8)
		ok(t, s, "channel", "create", "narrow")
		ok(t, s, "admin", "quota", "set", "narrow", "1KiB")
		o := run(t, s, s.AdminKey, "channel", "import", "narrow", ch.Dir)
		if o.err == nil || !strings.Contains(o.err.Error(), "left") && !strings.Contains(o.err.Error(), "quota") {
			t.Errorf("%v", o.err)
		}
		ok(t, s, "admin", "quota", "set", "narrow", "none")
		ok(t, s, "channel", "import", "narrow", ch.Dir)
	})
}
