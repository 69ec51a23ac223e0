package jobs_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot-dev/entrepot/pkg/jobs"
)

// fromNewer is what a newer version of the platform would ask for: a field that this one does not know.
func fromNewer(text string) (msg args, unknown []byte) {
	unknown = protowire.AppendTag(nil, 1000, protowire.BytesType)
	unknown = protowire.AppendString(unknown, "only the newer version knows what this is for")
	msg = wrapperspb.String(text)
	msg.ProtoReflect().SetUnknown(unknown)
	return msg, unknown
}

// While an upgrade is under way, version N−1 claims what N has enqueued, fails, and N may get the job next.
func TestArgumentsKeepFieldsThatThisVersionDoesNotKnow(t *testing.T) {
	t.Run("in a job, over a failed attempt and a retry by hand", func(t *testing.T) {
		b := setup(t)
		msg, unknown := fromNewer("x")
		got := make(chan []byte, 3)
		b.handle(jobs.KindSpec{MaxFailures: 2}, func(_ context.Context, job *jobs.Job[args]) (any, error) {
			// The worker may do what it likes to its own copy.
			got <- append([]byte(nil), job.Args.ProtoReflect().GetUnknown()...)
			job.Args.ProtoReflect().SetUnknown(nil)
			return nil, errors.New("not yet")
		})
		b.start()
		res, err := b.client.Enqueue(t.Context(), b.pool, jobs.EnqueueParams{Kind: kind, Args: msg})
		if err != nil {
			t.Fatal(err)
		}
		b.ends(res.JobID, jobs.Dead)
		for range 2 {
			if diff := cmp.Diff(unknown, receive(t, got)); diff != "" {
				t.Error(diff)
			}
		}
		if _, err := b.client.Retry(t.Context(), res.JobID); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(unknown, receive(t, got)); diff != "" {
			t.Errorf("after the retry: %s", diff)
		}
		var stored []byte
		if err := b.pool.QueryRow(t.Context(), "SELECT args FROM jobs.jobs WHERE id = $1", res.JobID).Scan(&stored); err != nil {
			t.Fatal(err)
		}
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, stored); diff != "" {
			t.Errorf("what is stored changed: %s", diff)
		}
	})

	t.Run("in a schedule's jobs", func(t *testing.T) {
		b := setup(t)
		msg, unknown := fromNewer("x")
		got := make(chan []byte, 1)
		b.handle(jobs.KindSpec{}, func(_ context.Context, job *jobs.Job[args]) (any, error) {
			select {
			case got <- append([]byte(nil), job.Args.ProtoReflect().GetUnknown()...):
			default:
			}
			return nil, nil
		})
		b.start()
		if _, err := b.client.UpsertSchedule(t.Context(), b.pool, jobs.Schedule{
			Name: "s", Job: jobs.EnqueueParams{Kind: kind, Args: msg}, Cron: "* * * * * *",
		}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(unknown, receive(t, got)); diff != "" {
			t.Error(diff)
		}
	})
}
