package channels_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/bus/bustest"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	"github.com/entrepot-dev/entrepot/pkg/rpc/rpctest"
	"github.com/entrepot-dev/entrepot/services/channels"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, bustest.Leftovers()...)
}

// bundle is the service behind a real gRPC server, on a real database, with blobs in memory.
type bundle struct {
	t     testing.TB
	svc   *channels.Service
	api   channelsv1.ChannelServiceClient
	pool  *pgxpool.Pool
	blobs *blobtest.Memory
	store *switchable
	jobs  *jobs.Client
	id    *rpctest.Identity
	ident *fakeIdentity
	bus   *recordingBus

	admin, alice, bob, eve authn.Caller // server owner; two server members; nobody's user
}

// switchable lets a test break the store while the service runs.
type switchable struct {
	*blobtest.Memory
	mu   sync.Mutex
	fail func(op string) error
}

func (s *switchable) set(fail func(op string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func (s *switchable) ask(op string, _ blob.Digest) error {
	s.mu.Lock()
	fail := s.fail
	s.mu.Unlock()
	if fail == nil {
		return nil
	}
	return fail(op) // without the lock, for it may wait
}

// recordingBus keeps what was announced and passes it on.
type recordingBus struct {
	next *bus.Bus

	mu     sync.Mutex
	events []channels.HeadEvent
}

func (b *recordingBus) Publish(ctx context.Context, subject string, data []byte) error {
	var e channels.HeadEvent
	if err := json.Unmarshal(data, &e); err != nil {
		return err
	}
	b.mu.Lock()
	b.events = append(b.events, e)
	b.mu.Unlock()
	if b.next == nil {
		return nil
	}
	return b.next.Publish(ctx, subject, data)
}

func (b *recordingBus) last() channels.HeadEvent {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.events[len(b.events)-1]
}

func setup(t testing.TB) *bundle {
	return setupConfig(t, channels.Config{}.WithExtrasPause(time.Millisecond))
}

func setupConfig(t testing.TB, cfg channels.Config) *bundle {
	t.Helper()
	b := &bundle{t: t, id: rpctest.NewIdentity(t), bus: &recordingBus{}, store: &switchable{Memory: &blobtest.Memory{}}}
	b.blobs = b.store.Memory
	b.blobs.Fail = b.store.ask
	b.pool = pgtest.New(t, channels.Schema, jobs.Schema, refs.Schema, audit.Schema)
	b.jobs = jobs.NewClient(jobs.ClientConfig{Pool: b.pool})
	b.ident = &fakeIdentity{id: b.id, users: map[string]*identityv1.User{}}
	b.svc = b.newService(cfg)
	srv := b.id.Server()
	b.svc.Register(srv)
	b.api = channelsv1.NewChannelServiceClient(b.id.Serve(t, srv, "channels"))
	b.admin = b.user("admin", authz.Binding{Role: authz.Owner, Resource: "server"})
	b.alice = b.user("alice", authz.Binding{Role: authz.Member, Resource: "server"})
	b.bob = b.user("bob", authz.Binding{Role: authz.Member, Resource: "server"})
	b.eve = b.user("eve")
	return b
}

// newService returns another replica on the same database.
func (b *bundle) newService(cfg channels.Config) *channels.Service {
	return b.newServiceOn(cfg, b.store)
}

func (b *bundle) newServiceOn(cfg channels.Config, store blob.Store) *channels.Service {
	b.t.Helper()
	svc, err := channels.New(cfg, channels.Deps{Pool: b.pool, Blobs: store, Jobs: b.jobs, Bus: b.bus, Identity: b.ident, Roles: b.id.Roles})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(svc.Stop)
	return svc
}

func (b *bundle) user(name string, bindings ...authz.Binding) authn.Caller {
	c := b.id.User(name, bindings...)
	b.ident.mu.Lock()
	defer b.ident.mu.Unlock()
	b.ident.users[name] = &identityv1.User{Id: c.UserID, Username: name}
	return c
}

func (b *bundle) as(c authn.Caller) context.Context { return authn.NewContext(b.t.Context(), c) }

// target is a part of the platform that acts as itself.
func (b *bundle) target() context.Context { return b.as(authn.Service("gateway")) }

// startJobs runs a worker pool until the test ends.
func (b *bundle) startJobs() {
	b.t.Helper()
	nats := bustest.New(b.t)
	reg := jobs.NewRegistry()
	b.svc.RegisterJobs(reg)
	d, err := jobs.NewDispatcher(jobs.DispatcherConfig{Pool: b.pool, Bus: nats})
	if err != nil {
		b.t.Fatal(err)
	}
	r, err := jobs.NewRunner(jobs.RunnerConfig{Pool: b.pool, Bus: nats, Registry: reg})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := d.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	if err := r.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		r.Stop(ctx)
		d.Stop(ctx)
	})
}

// ownKinds are the jobs that this service does; those that it asks of others stay queued in these tests.
var ownKinds = []string{
	channels.KindIndex, channels.KindExtras, channels.KindPast, channels.KindReindex, channels.KindGenerate, channels.KindValidate, channels.KindCleanup,
	channels.KindBuiltin, channels.KindAnnounce,
}

// settled waits until no job of the service is left to do.
func (b *bundle) settled() { b.settledKind(ownKinds...) }

func (b *bundle) settledKind(kinds ...string) {
	b.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		n, err := b.jobs.Count(b.t.Context(), jobs.Filter{Kinds: kinds, States: []jobs.State{jobs.Queued, jobs.Scheduled, jobs.Running}})
		if err != nil {
			b.t.Fatal(err)
		}
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%d jobs are still not done", n)
		}
		time.Sleep(10 * time.Millisecond)
	}
	dead, _, err := b.jobs.List(b.t.Context(), jobs.Filter{States: []jobs.State{jobs.Dead}}, jobs.Page{})
	if err != nil {
		b.t.Fatal(err)
	}
	for _, j := range dead {
		b.t.Errorf("job %s died: %s", j.Kind, j.LastError)
	}
}

func (b *bundle) create(c authn.Caller, req *channelsv1.CreateChannelRequest) *channelsv1.Channel {
	b.t.Helper()
	ch, err := b.api.CreateChannel(b.as(c), req)
	if err != nil {
		b.t.Fatal(err)
	}
	return ch
}

// hosted makes alice's public channel.
func (b *bundle) hosted(name string) *channelsv1.Channel {
	b.t.Helper()
	return b.create(b.alice, &channelsv1.CreateChannelRequest{Name: name, Private: new(false)})
}

// mirror makes the admin's public mirror.
func (b *bundle) mirror(name string) *channelsv1.Channel {
	b.t.Helper()
	return b.create(b.admin, &channelsv1.CreateChannelRequest{Name: name, Private: new(false), Mirror: &channelsv1.MirrorSettings{Url: "https://up.example/chan/"}})
}

// put puts bytes into storage, as the edge does with an upload.
func (b *bundle) put(filename string, data []byte) *channelsv1.StagedFile {
	b.t.Helper()
	info, err := b.blobs.Put(context.Background(), bytes.NewReader(data), blob.PutOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	sum := md5.Sum(data)
	return &channelsv1.StagedFile{Filename: filename, Sha256: info.Digest[:], Md5: sum[:], Size: info.Size}
}

func (b *bundle) stage(s spec) *channelsv1.StagedFile {
	b.t.Helper()
	return b.put(s.filename(), s.bytes(b.t))
}

func (b *bundle) upload(c authn.Caller, channel string, specs ...spec) (*channelsv1.AddFilesResponse, error) {
	b.t.Helper()
	req := &channelsv1.AddFilesRequest{Channel: channel}
	for _, s := range specs {
		req.Files = append(req.Files, b.stage(s))
	}
	return b.api.AddFiles(b.as(c), req)
}

func (b *bundle) mustUpload(channel string, specs ...spec) *channelsv1.AddFilesResponse {
	b.t.Helper()
	r, err := b.upload(b.alice, channel, specs...)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bundle) resolve(channel, path string) *channelsv1.ResolveResponse {
	b.t.Helper()
	r, err := b.api.Resolve(b.target(), &channelsv1.ResolveRequest{Channel: channel, Path: path})
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// read returns what a channel serves at a path; nil if nothing.
func (b *bundle) read(channel, path string) []byte {
	b.t.Helper()
	r := b.resolve(channel, path)
	if !r.GetFound() {
		return nil
	}
	data, err := blob.ReadAll(context.Background(), b.blobs, blob.Digest(r.GetSha256()), 1<<30)
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}

// shardRecords reads a subdir as clients of shards do: the index, then every shard that it names.
func (b *bundle) shardRecords(channel, subdir string) map[string]json.RawMessage {
	b.t.Helper()
	data := b.read(channel, subdir+"/repodata_shards.msgpack.zst")
	if data == nil {
		return nil
	}
	ix, err := repodata.ParseIndex(data, repodata.ParseOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	out := make(map[string]json.RawMessage)
	for name, digest := range ix.Shards {
		data := b.read(channel, subdir+"/shards/"+repodata.ShardPath(digest))
		if data == nil || blob.Sum(data) != blob.Digest(digest) {
			b.t.Fatalf("the shard of %s is not served", name)
		}
		sh, err := repodata.ParseShard(data, repodata.ParseOptions{})
		if err != nil {
			b.t.Fatal(err)
		}
		for _, r := range sh.Records {
			out[r.Key] = json.RawMessage(r.Raw)
		}
	}
	return out
}

func wantFault(t testing.TB, err error, kind fault.Kind, reason, message string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %v %s", kind, reason)
	}
	var f *fault.Error
	if !asFault(err, &f) || f.Kind != kind || (reason != "" && f.Reason != reason) || (message != "" && f.Message != message) {
		t.Fatalf("got %v %q %q, want %v %q %q", fault.KindOf(err), reasonOf(err), err, kind, reason, message)
	}
}

func asFault(err error, f **fault.Error) bool {
	for e := err; e != nil; {
		if x, ok := e.(*fault.Error); ok {
			*f = x
			return true
		}
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			return false
		}
		e = u.Unwrap()
	}
	return false
}

func reasonOf(err error) string {
	var f *fault.Error
	if asFault(err, &f) {
		return f.Reason
	}
	return ""
}
