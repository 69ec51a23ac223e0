package channels_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// TestNamespaceLimits: what the channels of a namespace hold together stays below its limit, whoever writes where.
func TestNamespaceLimits(t *testing.T) {
	limit := func(b *bundle, namespace string, n *int64) *channelsv1.NamespaceUsage {
		t.Helper()
		u, err := b.api.SetNamespaceLimit(b.as(b.admin), &channelsv1.SetNamespaceLimitRequest{Namespace: namespace, SizeLimit: n})
		if err != nil {
			t.Fatal(err)
		}
		return u
	}

	t.Run("uploads to two channels at once stay below it together", func(t *testing.T) {
		b := setup(t)
		size := int64(len(spec{name: "p00"}.bytes(t)))
		most := 6*size + size/2
		b.create(b.admin, &channelsv1.CreateChannelRequest{Name: "one", Private: new(false)})
		b.create(b.admin, &channelsv1.CreateChannelRequest{Name: "two", Private: new(false)})
		limit(b, "default", &most)
		errs := together(24, func(i int) error {
			_, err := b.upload(b.admin, []string{"one", "two"}[i%2], spec{name: fmt.Sprintf("p%02d", i)})
			return err
		})
		ok := 0
		for _, err := range errs {
			if err == nil {
				ok++
			} else {
				wantFault(t, err, fault.Exhausted, "QUOTA", "namespace default is above its quota")
			}
		}
		all, err := b.api.ListNamespaceUsage(b.as(b.admin), &channelsv1.ListNamespaceUsageRequest{})
		if err != nil || len(all.GetUsages()) != 1 {
			t.Fatalf("%v, %v", all, err)
		}
		if u := all.GetUsages()[0]; u.GetSize() > most || ok < 5 || u.GetChannelCount() != 2 {
			t.Errorf("%d uploads made it: %v", ok, u)
		}
		if r, err := b.api.CheckUpload(b.as(b.admin), &channelsv1.CheckUploadRequest{Channel: "one"}); err != nil || r.GetRemaining() != 1<<30 {
			t.Errorf("who uploads is told how much there is in others' channels: %v, %v", r, err)
		}
		_, err = b.api.CheckUpload(b.as(b.admin), &channelsv1.CheckUploadRequest{Channel: "one", Size: most})
		wantFault(t, err, fault.Exhausted, "QUOTA", "")
	})

	t.Run("a channel's own limit may be the narrower one, and other namespaces are none of its business", func(t *testing.T) {
		b := setup(t)
		own, wide, none := int64(1000), int64(1<<40), int64(0)
		b.create(b.admin, &channelsv1.CreateChannelRequest{Name: "narrow", SizeLimit: &own})
		limit(b, "default", &wide)
		limit(b, "team", &none)
		if r, err := b.api.CheckUpload(b.as(b.admin), &channelsv1.CheckUploadRequest{Channel: "narrow"}); err != nil || r.GetRemaining() != own {
			t.Errorf("%v, %v", r, err)
		}
		b.create(b.admin, &channelsv1.CreateChannelRequest{Name: "full", Namespace: "team"})
		_, err := b.upload(b.admin, "full", spec{name: "p"})
		wantFault(t, err, fault.Exhausted, "QUOTA", "namespace team is above its quota")
		limit(b, "team", nil)
		if _, err := b.upload(b.admin, "full", spec{name: "p"}); err != nil {
			t.Error(err)
		}
	})

	t.Run("what is there stays when the limit is lowered, and may go", func(t *testing.T) {
		b := setup(t)
		b.hosted("main")
		b.mustUpload("main", spec{name: "a"}, spec{name: "b"})
		one := int64(1)
		u := limit(b, "default", &one)
		if u.GetSize() <= 1 {
			t.Errorf("%v", u)
		}
		_, err := b.upload(b.alice, "main", spec{name: "c"})
		wantFault(t, err, fault.Exhausted, "QUOTA", "")
		if _, err := b.api.DeletePackage(b.as(b.alice), &channelsv1.DeletePackageRequest{Channel: "main", Package: "a"}); err != nil {
			t.Error(err)
		}
	})

	t.Run("the sum is exact, whatever is written while the limit is set", func(t *testing.T) {
		b := setup(t)
		wide := int64(1 << 40)
		for _, name := range []string{"one", "two", "three"} {
			b.hosted(name)
		}
		errs := together(25, func(i int) error {
			if i%8 == 4 {
				_, err := b.api.SetNamespaceLimit(b.as(b.admin), &channelsv1.SetNamespaceLimitRequest{Namespace: "default", SizeLimit: &wide})
				return err
			}
			_, err := b.upload(b.alice, []string{"one", "two", "three"}[i%3], spec{name: fmt.Sprintf("p%02d", i)})
			return err
		})
		for _, err := range errs {
			if err != nil {
				t.Error(err)
			}
		}
		exact := func(after string) {
			t.Helper()
			var used, sum int64
			if err := b.pool.QueryRow(t.Context(), `SELECT (SELECT used FROM channels.namespace_limits WHERE namespace = 'default'), sum(size)::bigint FROM channels.channels`).Scan(&used, &sum); err != nil {
				t.Fatal(err)
			}
			if used != sum || sum == 0 {
				t.Errorf("after %s: %d bytes are taken for %d", after, sum, used)
			}
		}
		exact("uploads")
		if _, err := b.api.DeletePackage(b.as(b.alice), &channelsv1.DeletePackageRequest{Channel: "one", Package: "p00"}); err != nil {
			t.Fatal(err)
		}
		exact("a deletion")
		if _, err := b.api.DeleteChannel(b.as(b.admin), &channelsv1.DeleteChannelRequest{Channel: "two"}); err != nil {
			t.Fatal(err)
		}
		exact("a channel's end")
		limit(b, "default", nil)
		limit(b, "default", &wide)
		exact("another limit")
	})

	t.Run("who may set it, and of what", func(t *testing.T) {
		b := setup(t)
		_, err := b.api.SetNamespaceLimit(b.as(b.alice), &channelsv1.SetNamespaceLimitRequest{Namespace: "default"})
		wantFault(t, err, fault.Denied, "", "")
		_, err = b.api.ListNamespaceUsage(b.as(b.alice), &channelsv1.ListNamespaceUsageRequest{})
		wantFault(t, err, fault.Denied, "", "")
		_, err = b.api.SetNamespaceLimit(b.as(b.admin), &channelsv1.SetNamespaceLimitRequest{Namespace: "nobodys"})
		wantFault(t, err, fault.NotFound, "NAMESPACE_NOT_FOUND", "")
		_, err = b.api.SetNamespaceLimit(b.as(b.admin), &channelsv1.SetNamespaceLimitRequest{Namespace: "default", SizeLimit: new(int64(-1))})
		wantFault(t, err, fault.Invalid, "", "must be positive value")
		if diff := cmp.Diff(&channelsv1.NamespaceUsage{Namespace: "team"}, limit(b, "team", nil), protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	})
}
