package storage

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

func TestUpkeepIsForMaintainers(t *testing.T) {
	b := setup(t)
	api, id, _ := b.api(DefaultUpkeep())
	ctx := authn.NewContext(t.Context(), id.User("nobody"))
	if _, err := api.RunGarbageCollection(ctx, &storagev1.RunGarbageCollectionRequest{}); !fault.Is(err, fault.Denied) {
		t.Errorf("RunGarbageCollection: %v", err)
	}
	if _, err := api.RunScrub(ctx, &storagev1.RunScrubRequest{}); !fault.Is(err, fault.Denied) {
		t.Errorf("RunScrub: %v", err)
	}
	if _, err := api.ListFindings(ctx, &storagev1.ListFindingsRequest{}); !fault.Is(err, fault.Denied) {
		t.Errorf("ListFindings: %v", err)
	}
}

func TestRequestsShareAJobThatWaits(t *testing.T) {
	b := setup(t)
	api, id, _ := b.api(DefaultUpkeep())
	ctx := authn.NewContext(t.Context(), maintainer(id))
	first, err := api.RunGarbageCollection(ctx, &storagev1.RunGarbageCollectionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := api.RunGarbageCollection(ctx, &storagev1.RunGarbageCollectionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	dry, err := api.RunGarbageCollection(ctx, &storagev1.RunGarbageCollectionRequest{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if first.GetKind() != KindGC || first.GetOwner() == "" || again.GetId() != first.GetId() || dry.GetId() == first.GetId() {
		t.Errorf("jobs %v, %v and %v: want one for two requests, and another for the dry run", first, again, dry)
	}
	var events int
	if err := b.pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox.audit WHERE action = 'storage.gc'`).Scan(&events); err != nil || events != 3 {
		t.Errorf("%d audit events, %v; want 3", events, err)
	}
}

func TestFindingsByPage(t *testing.T) {
	b := setup(t)
	api, id, _ := b.api(DefaultUpkeep())
	ctx := authn.NewContext(t.Context(), maintainer(id))
	for _, text := range []string{"one", "two", "three"} {
		b.blobs.Corrupt(b.put(text, text))
	}
	b.scrub(&storagev1.ScrubResult{Checked: 3, CheckedBytes: 11, Corrupt: 3})
	b.put("two", "")
	b.scrub(&storagev1.ScrubResult{Checked: 1, CheckedBytes: 3, Missing: 2, Resolved: 1})
	list := func(all bool) (got []*storagev1.Finding) {
		token := ""
		for {
			page, err := api.ListFindings(ctx, &storagev1.ListFindingsRequest{PageSize: 1, PageToken: token, IncludeResolved: all})
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, page.GetFindings()...)
			if token = page.GetNextPageToken(); token == "" {
				return got
			}
		}
	}
	if n := len(list(true)); n != 3 {
		t.Errorf("%d findings with the resolved one, want 3", n)
	}
	owners := map[string]bool{}
	for _, f := range list(false) {
		if f.GetProblem() != storagev1.Problem_PROBLEM_CORRUPT || !f.GetQuarantined() || f.GetResolveTime() != nil || len(f.GetOwners()) != 1 {
			t.Errorf("finding %v", f)
			continue
		}
		owners[f.GetOwners()[0]] = true
	}
	if diff := cmp.Diff(map[string]bool{"test.thing/one": true, "test.thing/three": true}, owners); diff != "" {
		t.Errorf("owners (-want +got)\n%s", diff)
	}
	usage, err := api.GetUsage(ctx, &storagev1.GetUsageRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&storagev1.GetUsageResponse{BlobCount: 3, BlobBytes: 11, ReferenceCount: 3, FindingCount: 2}, usage, protocmp.Transform()); diff != "" {
		t.Errorf("usage (-want +got)\n%s", diff)
	}
	if _, err := api.ListFindings(ctx, &storagev1.ListFindingsRequest{PageToken: "x"}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a strange page token: %v", err)
	}
}

func TestSchedulesFollowTheConfiguration(t *testing.T) {
	b := setup(t)
	names := func(u Upkeep) (out []string) {
		t.Helper()
		_, _, svc := b.api(u)
		if err := svc.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer svc.Stop()
		all, err := b.jobs.ListSchedules(t.Context(), "default")
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			if s.Job.Principal.Name != "service:storage" {
				t.Errorf("%s runs as %q", s.Name, s.Job.Principal.Name)
			}
			out = append(out, s.Name+" "+s.RepeatEvery.String()+" "+s.NextAt.UTC().Format("05"))
		}
		return out
	}
	want := []string{"upkeep/gc 1h0m0s 00", "upkeep/scrub 168h0m0s 00"}
	for range 2 {
		if diff := cmp.Diff(want, names(DefaultUpkeep())); diff != "" {
			t.Errorf("schedules (-want +got)\n%s", diff)
		}
	}
	if diff := cmp.Diff([]string{"upkeep/gc 2h0m0s 00"}, names(Upkeep{GCEvery: 2 * time.Hour, GCGrace: time.Hour})); diff != "" {
		t.Errorf("schedules without a scrub (-want +got)\n%s", diff)
	}
}

func TestUpkeepSettings(t *testing.T) {
	if err := DefaultUpkeep().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	err := Upkeep{GCEvery: time.Second, ScrubEvery: -time.Hour, GCGrace: time.Second, ScrubRate: -1, AuditRetention: -1}.Validate()
	f, ok := err.(*fault.Error)
	if !ok || len(f.Violations) != 5 {
		t.Errorf("every setting wrong: %v", err)
	}
}
