package channels_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/channels"
)

func TestUpload(t *testing.T) {
	t.Run("a package is listed in its shard at once, with what was measured and what it says", func(t *testing.T) {
		b := setup(t)
		b.hosted("main")
		s := spec{
			name: "tool", version: "1.2", number: 3, subdir: "linux-64", about: &archive.About{Summary: "a tool", Home: "https://tool.example"},
			runExports: &archive.RunExports{Weak: archive.StringList{"tool >=1.2"}},
		}
		r := b.mustUpload("main", s)
		if r.GetRevision() != 2 || len(r.GetFiles()) != 1 {
			t.Fatalf("got %v", r)
		}
		f := r.GetFiles()[0]
		data := s.bytes(t)
		want := &channelsv1.File{
			Path: "linux-64/tool-1.2-h0_3.conda", Sha256: blob.Sum(data).String(), Size: int64(len(data)), Name: "tool", Version: "1.2",
			Build: "h0_3", BuildNumber: 3, Subdir: "linux-64", AddedRevision: 2, Uploader: "alice",
		}
		got := &channelsv1.File{
			Path: f.Path, Sha256: f.Sha256, Size: f.Size, Name: f.Name, Version: f.Version, Build: f.Build, BuildNumber: f.BuildNumber,
			Subdir: f.Subdir, AddedRevision: f.AddedRevision, Uploader: f.Uploader,
		}
		if d := cmp.Diff(want.String(), got.String()); d != "" {
			t.Errorf("file (-want +got):\n%s", d)
		}
		var rec map[string]any
		if err := json.Unmarshal([]byte(f.GetRecord()), &rec); err != nil {
			t.Fatal(err)
		}
		if rec["sha256"] != f.Sha256 || rec["md5"] != f.Md5 || rec["size"] != float64(f.Size) || rec["subdir"] != "linux-64" || rec["indexed_timestamp"] != nil {
			t.Errorf("record %s", f.GetRecord())
		}
		var sh map[string]any
		if err := json.Unmarshal(b.shardRecords("main", "linux-64")["tool-1.2-h0_3.conda"], &sh); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(map[string]any{"weak": []any{"tool >=1.2"}}, sh["run_exports"]); d != "" {
			t.Errorf("run exports in the shard (-want +got):\n%s", d)
		}
		delete(sh, "run_exports")
		if d := cmp.Diff(rec, sh); d != "" {
			t.Errorf("shard (-want +got):\n%s", d)
		}
		if got := b.read("main", f.GetPath()); !bytes.Equal(got, data) {
			t.Error("other bytes are served")
		}
		p, err := b.api.GetPackage(b.as(b.alice), &channelsv1.GetPackageRequest{Channel: "main", Package: "tool"})
		if err != nil || p.GetSummary() != "a tool" || p.GetDescription() != "n/a" || p.GetUrl() != "https://tool.example" || p.GetCurrentVersion() != "1.2" ||
			!cmp.Equal(p.GetSubdirs(), []string{"linux-64"}) {
			t.Errorf("package %v, %v", p, err)
		}
		ch, err := b.api.GetChannel(b.as(b.alice), &channelsv1.GetChannelRequest{Channel: "MAIN"})
		if err != nil || ch.GetHead() != 2 || ch.GetSize() != f.Size || ch.GetFileCount() != 1 || ch.GetPackageCount() != 1 || ch.GetMemberCount() != 1 {
			t.Errorf("channel %v, %v", ch, err)
		}
		if e := b.bus.last(); e.Head != 2 || e.ID != ch.GetId() || e.Deleted || e.Private {
			t.Errorf("announced %+v", e)
		}
	})

	t.Run("a job publishes under its claim, and a claim that is gone fails nobody beside it", func(t *testing.T) {
		b := setup(t)
		b.hosted("c")
		job := uuid.New()
		_, err := b.pool.Exec(t.Context(), `INSERT INTO jobs.jobs (id, kind, args_type, args, state, priority, namespace, claim) VALUES ($1, 'test.job', 'x', '', 'running', 1, 'default', 2)`, job)
		if err != nil {
			t.Fatal(err)
		}
		by := func(claim int64) authn.Caller {
			c := b.alice
			c.JobID, c.Claim = job.String(), claim
			return c
		}
		var g sync.WaitGroup // most likely they come in one group
		var late, current, person error
		g.Go(func() { _, late = b.upload(by(1), "c", spec{name: "late"}) })
		g.Go(func() { _, current = b.upload(by(2), "c", spec{name: "current"}) })
		g.Go(func() { _, person = b.upload(b.alice, "c", spec{name: "person"}) })
		g.Wait()
		if current != nil || person != nil {
			t.Fatal(current, person)
		}
		if !fault.Is(late, fault.LostRace) {
			t.Errorf("an old claim: %v", late)
		}
		ix, err := b.api.ListFiles(b.as(b.alice), &channelsv1.ListFilesRequest{Channel: "c"})
		if err != nil || ix.GetTotalSize() != 2 {
			t.Errorf("%v, %v", ix, err)
		}
	})

	t.Run("what is no package, or another one, is refused and changes nothing", func(t *testing.T) {
		b := setup(t)
		b.hosted("main")
		good := spec{name: "a"}.bytes(t)
		bz2 := spec{name: "a", format: dist.TarBz2}.bytes(t)
		tests := map[string]struct {
			file    *channelsv1.StagedFile
			reason  string
			message string
		}{
			"no package name":   {b.put("readme.txt", good), "FILENAME_INVALID", "package file name has wrong format readme.txt"},
			"a name that walks": {b.put("../a-1.0-h0_0.conda", good), "FILENAME_INVALID", "package file name has wrong format ../a-1.0-h0_0.conda"},
			"an encoded name":   {b.put("a%2e-1.0-h0_0.conda", good), "FILENAME_INVALID", ""},
			"a giant name":      {b.put(strings.Repeat("a", 100_000)+"-1-0.conda", good), "FILENAME_INVALID", ""},
			"another version":   {b.put("a-2.0-h0_0.tar.bz2", bz2), "FILENAME_MISMATCH", "package file name and info files do not match a-2.0-h0_0.tar.bz2"},
			"another build":     {b.put("a-1.0-h1_0.tar.bz2", bz2), "FILENAME_MISMATCH", ""},
			"no archive":        {b.put("a-1.0-h0_0.conda", []byte("hello")), "PACKAGE_INVALID", ""},
			"an empty archive":  {b.put("a-1.0-h0_0.tar.bz2", nil), "PACKAGE_INVALID", ""},
			"a cut archive":     {b.put("a-1.0-h0_0.conda", good[:len(good)-10]), "PACKAGE_INVALID", ""},
			"from the future":   {b.stage(spec{name: "a", timestamp: time.Now().Add(48 * time.Hour).UnixMilli()}), "TIMESTAMP_IN_FUTURE", ""},
			"schema version 3":  {b.stage(spec{name: "a", schema: 3}), "SCHEMA_VERSION", ""},
		}
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				_, err := b.api.AddFiles(b.as(b.alice), &channelsv1.AddFilesRequest{Channel: "main", Files: []*channelsv1.StagedFile{tt.file}})
				wantFault(t, err, fault.Invalid, tt.reason, tt.message)
			})
		}
		t.Run("another size than stored", func(t *testing.T) {
			f := b.put("a-1.0-h0_0.conda", good)
			f.Size++
			_, err := b.api.AddFiles(b.as(b.alice), &channelsv1.AddFilesRequest{Channel: "main", Files: []*channelsv1.StagedFile{f}})
			wantFault(t, err, fault.Invalid, "", "")
		})
		t.Run("bytes that are not stored", func(t *testing.T) {
			f := b.put("a-1.0-h0_0.conda", good)
			f.Sha256 = bytes.Repeat([]byte{1}, 32)
			_, err := b.api.AddFiles(b.as(b.alice), &channelsv1.AddFilesRequest{Channel: "main", Files: []*channelsv1.StagedFile{f}})
			wantFault(t, err, fault.NotFound, blob.ReasonNotFound, "")
		})
		t.Run("another package than the endpoint's", func(t *testing.T) {
			_, err := b.api.AddFiles(b.as(b.alice), &channelsv1.AddFilesRequest{Channel: "main", Package: "b", Files: []*channelsv1.StagedFile{b.put("a-1.0-h0_0.conda", good)}})
			wantFault(t, err, fault.Invalid, "PACKAGE_MISMATCH", "requested package endpoint 'b' does not match the uploaded package name 'a'")
		})
		if ch, err := b.api.GetChannel(b.as(b.alice), &channelsv1.GetChannelRequest{Channel: "main"}); err != nil || ch.GetHead() != 1 {
			t.Errorf("the head moved: %v, %v", ch, err)
		}
	})

	t.Run("all files of a request land in one revision or none do", func(t *testing.T) {
		b := setup(t)
		b.hosted("main")
		b.mustUpload("main", spec{name: "old"})
		_, err := b.upload(b.alice, "main", spec{name: "new"}, spec{name: "old", content: "other"})
		wantFault(t, err, fault.Conflict, channels.ReasonDuplicate, "Duplicate")
		if b.resolve("main", spec{name: "new"}.path()).GetFound() {
			t.Error("half of the request was published")
		}
		if r := b.mustUpload("main", spec{name: "x"}, spec{name: "y", subdir: "win-64"}); r.GetRevision() != 3 || len(r.GetFiles()) != 2 {
			t.Errorf("got %v", r)
		}
	})

	t.Run("equal bytes are told apart from other bytes of the name", func(t *testing.T) {
		b := setup(t)
		b.hosted("main")
		b.mustUpload("main", spec{name: "a", content: "1"})
		_, err := b.upload(b.alice, "main", spec{name: "a", content: "1"})
		wantFault(t, err, fault.Conflict, channels.ReasonDuplicateEqual, "Duplicate")
		_, err = b.upload(b.alice, "main", spec{name: "a", content: "2"})
		wantFault(t, err, fault.Conflict, channels.ReasonDuplicate, "Duplicate")
	})

	t.Run("force replaces bytes and record in one revision and keeps id and birthday", func(t *testing.T) {
		b := setup(t)
		b.hosted("main")
		before := b.mustUpload("main", spec{name: "a", content: "1"}).GetFiles()[0]
		r, err := b.api.AddFiles(b.as(b.alice), &channelsv1.AddFilesRequest{Channel: "main", Force: true, Files: []*channelsv1.StagedFile{b.stage(spec{name: "a", content: "two"})}})
		if err != nil {
			t.Fatal(err)
		}
		after := r.GetFiles()[0]
		if after.Id != before.Id || !after.CreateTime.AsTime().Equal(before.CreateTime.AsTime()) || after.Sha256 == before.Sha256 || after.AddedRevision != 3 {
			t.Errorf("before %v\nafter %v", before, after)
		}
		if got := b.shardRecords("main", "noarch"); len(got) != 1 || !strings.Contains(string(got["a-1.0-h0_0.conda"]), after.Sha256) {
			t.Errorf("shard %s", got)
		}
		old, err := b.api.Resolve(b.target(), &channelsv1.ResolveRequest{Channel: "main", Path: after.Path, Revision: 2})
		if err != nil || fmt.Sprintf("%x", old.GetSha256()) != before.Sha256 {
			t.Errorf("the past changed: %v, %v", old, err)
		}
		ch, err := b.api.GetChannel(b.as(b.alice), &channelsv1.GetChannelRequest{Channel: "main"})
		if err != nil || ch.GetSize() != after.Size || ch.GetFileCount() != 1 {
			t.Errorf("channel %v, %v", ch, err)
		}
		// The same once more has no further effect.
		r, err = b.api.AddFiles(b.as(b.alice), &channelsv1.AddFilesRequest{Channel: "main", Force: true, Files: []*channelsv1.StagedFile{b.stage(spec{name: "a", content: "two"})}})
		if err != nil || r.GetRevision() != 3 {
			t.Errorf("a repeated force: %v, %v", r, err)
		}
	})

	t.Run("rights: members read, maintainers upload, owners overwrite, package roles count for their package", func(t *testing.T) {
		b := setup(t)
		ch := b.hosted("main")
		b.mustUpload("main", spec{name: "a", content: "1"})
		force := func(c authn.Caller) error {
			_, err := b.api.AddFiles(b.as(c), &channelsv1.AddFilesRequest{Channel: "main", Force: true, Files: []*channelsv1.StagedFile{b.stage(spec{name: "a", content: c.Name})}})
			return err
		}
		_, err := b.upload(b.bob, "main", spec{name: "b"})
		wantFault(t, err, fault.Denied, "", "No permission")
		_, err = b.upload(authn.Caller{}, "main", spec{name: "b"})
		wantFault(t, err, fault.Unauthenticated, "", "Not logged in")
		b.id.Grant(b.bob, authz.Binding{Role: authz.Maintainer, Resource: "channel/" + ch.GetId()})
		if _, err = b.upload(b.bob, "main", spec{name: "b"}); err != nil {
			t.Error(err)
		}
		wantFault(t, force(b.bob), fault.Denied, "", "No permission")
		b.id.Grant(b.eve, authz.Binding{Role: authz.Owner, Resource: "package/" + ch.GetId() + "/a"})
		if err := force(b.eve); err != nil {
			t.Error(err)
		}
		_, err = b.upload(b.eve, "main", spec{name: "a", version: "2"}, spec{name: "c"})
		wantFault(t, err, fault.Denied, "", "No permission")
	})

	t.Run("mirrors and proxies take no uploads and deletions, before rights are looked at", func(t *testing.T) {
		b := setup(t)
		b.mirror("mir")
		b.create(b.admin, &channelsv1.CreateChannelRequest{
			Name: "pro", Private: new(false), Kind: channelsv1.ChannelKind_CHANNEL_KIND_PROXY,
			Mirror: &channelsv1.MirrorSettings{Url: "https://up.example/c"},
		})
		for name, text := range map[string]string{"mir": "This method is not implemented for mirror channels", "pro": "This method is not implemented for proxy channels"} {
			for _, c := range []authn.Caller{b.admin, b.eve} {
				_, err := b.upload(c, name, spec{name: "a"})
				wantFault(t, err, fault.Precondition, "CHANNEL_KIND", text)
				_, err = b.api.DeleteFile(b.as(c), &channelsv1.DeleteFileRequest{Channel: name, Path: "noarch/a-1-0.conda"})
				wantFault(t, err, fault.Precondition, "CHANNEL_KIND", text)
				_, err = b.api.DeletePackage(b.as(c), &channelsv1.DeletePackageRequest{Channel: name, Package: "a"})
				wantFault(t, err, fault.Precondition, "CHANNEL_KIND", text)
				_, err = b.api.CheckUpload(b.as(c), &channelsv1.CheckUploadRequest{Channel: name})
				wantFault(t, err, fault.Precondition, "CHANNEL_KIND", text)
			}
		}
	})
}

func TestUploadsTogether(t *testing.T) {
	t.Run("of twenty uploads of one package one succeeds", func(t *testing.T) {
		b := setup(t)
		b.hosted("main")
		errs := together(20, func(i int) error {
			_, err := b.upload(b.alice, "main", spec{name: "a", content: fmt.Sprint(i % 2)})
			return err
		})
		ok := 0
		for _, err := range errs {
			if err == nil {
				ok++
			} else if !fault.Is(err, fault.Conflict) {
				t.Error(err)
			}
		}
		if ok != 1 || len(b.shardRecords("main", "noarch")) != 1 {
			t.Errorf("%d succeeded", ok)
		}
	})

	t.Run("uploads that come together share a revision, and a bad one hurts no other", func(t *testing.T) {
		b := setupConfig(t, channels.Config{BatchWindow: time.Second})
		b.hosted("main")
		b.mustUpload("main", spec{name: "taken"})
		staged := make([]*channelsv1.StagedFile, 8)
		for i := range staged {
			staged[i] = b.stage(spec{name: fmt.Sprintf("p%d", i)})
		}
		staged[3] = b.stage(spec{name: "taken", content: "other"})
		var all sync.WaitGroup // all are being looked through before the first one is done
		all.Add(8)
		b.store.set(func(op string) error {
			if op == "open" {
				all.Done()
				all.Wait()
			}
			return nil
		})
		defer b.store.set(nil)
		var mu sync.Mutex
		revisions := make(map[int64]int)
		errs := together(8, func(i int) error {
			r, err := b.api.AddFiles(b.as(b.alice), &channelsv1.AddFilesRequest{Channel: "main", Files: staged[i : i+1]})
			if err == nil {
				mu.Lock()
				revisions[r.GetRevision()]++
				mu.Unlock()
			}
			return err
		})
		for i, err := range errs {
			if i == 3 {
				wantFault(t, err, fault.Conflict, channels.ReasonDuplicate, "Duplicate")
			} else if err != nil {
				t.Error(err)
			}
		}
		if d := cmp.Diff(map[int64]int{3: 7}, revisions); d != "" {
			t.Errorf("uploads by revision (-want +got):\n%s", d)
		}
	})

	// inOneGroup uploads the files side by side, each on its own, after all of them were looked through, and counts the uploads
	// by revision.
	inOneGroup := func(b *bundle, staged []*channelsv1.StagedFile, then func(op string) error) (map[int64]int, []error) {
		var all sync.WaitGroup
		all.Add(len(staged))
		b.store.set(func(op string) error {
			if op == "open" {
				all.Done()
				all.Wait()
				return nil
			}
			return then(op)
		})
		defer b.store.set(nil)
		var mu sync.Mutex
		revisions := make(map[int64]int)
		errs := together(len(staged), func(i int) error {
			r, err := b.api.AddFiles(b.as(b.alice), &channelsv1.AddFilesRequest{Channel: "main", Files: staged[i : i+1]})
			if err == nil {
				mu.Lock()
				revisions[r.GetRevision()]++
				mu.Unlock()
			}
			return err
		})
		return revisions, errs
	}
	many := func(b *bundle, n int) (staged []*channelsv1.StagedFile) {
		for i := range n {
			staged = append(staged, b.stage(spec{name: fmt.Sprintf("p%02d", i)}))
		}
		return staged
	}
	nothing := func(string) error { return nil }

	t.Run("an error of one is found by halves", func(t *testing.T) {
		b := setupConfig(t, channels.Config{BatchWindow: 2 * time.Second})
		b.hosted("main")
		staged := many(b, 16)
		var once sync.Once
		revisions, errs := inOneGroup(b, staged, func(op string) error {
			if op == "stat" { // the group is there: now one of them is not stored any more
				once.Do(func() {
					if err := b.blobs.Delete(context.Background(), blob.Digest(staged[5].GetSha256())); err != nil {
						t.Error(err)
					}
				})
			}
			return nil
		})
		for i, err := range errs {
			if i == 5 {
				wantFault(t, err, fault.Precondition, "BLOB_MISSING", "")
			} else if err != nil {
				t.Error(err)
			}
		}
		if len(revisions) > 4 { // of eight, four, two and one
			t.Errorf("uploads by revision: %v", revisions)
		}
	})

	t.Run("an error of all is not asked for once for each", func(t *testing.T) {
		b := setupConfig(t, channels.Config{BatchWindow: 2 * time.Second})
		b.hosted("main")
		var puts atomic.Int64
		_, errs := inOneGroup(b, many(b, 16), func(op string) error {
			if op == "put" {
				puts.Add(1)
				return fault.New(fault.Unavailable, "the disk is away")
			}
			return nil
		})
		for _, err := range errs {
			wantFault(t, err, fault.Unavailable, "", "the disk is away")
		}
		if n := puts.Load(); n > 8 {
			t.Errorf("the store was asked %d times", n)
		}
	})

	t.Run("those that fit into the namespace share a revision", func(t *testing.T) {
		b := setupConfig(t, channels.Config{BatchWindow: 2 * time.Second})
		b.hosted("main")
		staged := many(b, 8)
		limit := 5*staged[0].GetSize() + staged[0].GetSize()/2
		if _, err := b.api.SetNamespaceLimit(b.as(b.admin), &channelsv1.SetNamespaceLimitRequest{Namespace: "default", SizeLimit: &limit}); err != nil {
			t.Fatal(err)
		}
		revisions, errs := inOneGroup(b, staged, nothing)
		for _, err := range errs {
			if err != nil {
				wantFault(t, err, fault.Exhausted, "QUOTA", "namespace default is above its quota")
			}
		}
		if d := cmp.Diff(map[int64]int{2: 5}, revisions); d != "" {
			t.Errorf("uploads by revision (-want +got):\n%s", d)
		}
	})

	t.Run("two that replace the same file both succeed, one after the other", func(t *testing.T) {
		b := setupConfig(t, channels.Config{BatchWindow: 300 * time.Millisecond})
		b.hosted("main")
		errs := together(2, func(i int) error {
			_, err := b.api.AddFiles(b.as(b.alice), &channelsv1.AddFilesRequest{Channel: "main", Force: true, Files: []*channelsv1.StagedFile{b.stage(spec{name: "a", content: fmt.Sprint(i)})}})
			return err
		})
		for _, err := range errs {
			if err != nil {
				t.Error(err)
			}
		}
		if ch, err := b.api.GetChannel(b.as(b.alice), &channelsv1.GetChannelRequest{Channel: "main"}); err != nil || ch.GetHead() != 3 {
			t.Errorf("%v, %v", ch, err)
		}
	})

	t.Run("replicas that publish to one channel lose races and rebase", func(t *testing.T) {
		b := setupConfig(t, channels.Config{BatchWindow: time.Millisecond})
		b.hosted("main")
		other := b.newService(channels.Config{BatchWindow: time.Millisecond})
		const n = 12
		errs := together(2*n, func(i int) error {
			req := &channelsv1.AddFilesRequest{Channel: "main", Files: []*channelsv1.StagedFile{b.stage(spec{name: fmt.Sprintf("p%d", i)})}}
			if i%2 == 0 {
				_, err := b.api.AddFiles(b.as(b.alice), req)
				return err
			}
			_, err := other.AddFiles(b.as(b.alice), req)
			return err
		})
		for _, err := range errs {
			if err != nil {
				t.Error(err)
			}
		}
		ch, err := b.api.GetChannel(b.as(b.alice), &channelsv1.GetChannelRequest{Channel: "main"})
		if err != nil || ch.GetFileCount() != 2*n || ch.GetPackageCount() != 2*n || len(b.shardRecords("main", "noarch")) != 2*n {
			t.Errorf("%v, %v, %d in shards", ch, err, len(b.shardRecords("main", "noarch")))
		}
	})

	t.Run("fifty uploads that each fit the quota alone stay below it together", func(t *testing.T) {
		b := setup(t)
		size := int64(len(spec{name: "p00"}.bytes(t)))
		limit := 10*size + size/2
		b.create(b.admin, &channelsv1.CreateChannelRequest{Name: "main", Private: new(false), SizeLimit: &limit})
		errs := together(50, func(i int) error {
			_, err := b.upload(b.admin, "main", spec{name: fmt.Sprintf("p%02d", i)})
			return err
		})
		ok := 0
		for _, err := range errs {
			if err == nil {
				ok++
			} else {
				wantFault(t, err, fault.Exhausted, "QUOTA", fmt.Sprintf("main is above quota of %d bytes", limit))
			}
		}
		ch, err := b.api.GetChannel(b.as(b.admin), &channelsv1.GetChannelRequest{Channel: "main"})
		if err != nil || ch.GetSize() > limit || ok < 9 || ok > 11 || ch.GetFileCount() != int64(ok) {
			t.Errorf("%d uploads made it to %d of %d bytes (%v)", ok, ch.GetSize(), limit, err)
		}
		_, err = b.api.CheckUpload(b.as(b.admin), &channelsv1.CheckUploadRequest{Channel: "main", Size: 10 * size})
		wantFault(t, err, fault.Exhausted, "QUOTA", "")
		if r, err := b.api.CheckUpload(b.as(b.admin), &channelsv1.CheckUploadRequest{Channel: "main"}); err != nil || r.GetRemaining() != limit-ch.GetSize() {
			t.Errorf("remaining %v, %v", r, err)
		}
	})

	t.Run("a store that fails between blobs and rows leaves nothing visible", func(t *testing.T) {
		b := setup(t)
		b.hosted("main")
		before := b.read("main", "noarch/repodata_shards.msgpack.zst")
		f := b.stage(spec{name: "a"})
		b.store.set(func(op string) error {
			if op == "put" {
				return fault.New(fault.Unavailable, "the disk is away")
			}
			return nil
		})
		_, err := b.api.AddFiles(b.as(b.alice), &channelsv1.AddFilesRequest{Channel: "main", Files: []*channelsv1.StagedFile{f}})
		wantFault(t, err, fault.Unavailable, "", "the disk is away")
		b.store.set(nil)
		if b.resolve("main", spec{name: "a"}.path()).GetFound() || !bytes.Equal(before, b.read("main", "noarch/repodata_shards.msgpack.zst")) {
			t.Error("something became visible")
		}
		if _, err := b.api.AddFiles(b.as(b.alice), &channelsv1.AddFilesRequest{Channel: "main", Files: []*channelsv1.StagedFile{f}}); err != nil {
			t.Errorf("the next attempt: %v", err)
		}
	})
}

// together calls f n times at once.
func together(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errs
}
