package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
)

// ownedBy reports whether the caller asked for the job. Users are told apart by id, since a name may be given anew.
func ownedBy(info jobs.Info, c authn.Caller) bool {
	owner, err := authn.Unmarshal(info.Principal.Data)
	return err == nil && c.UserID != "" && owner.UserID == c.UserID
}

func (s *Service) toProto(ctx context.Context, info jobs.Info) (*jobsv1.Job, error) {
	return s.convert(ctx, info, map[uuid.UUID]int64{})
}

// convert makes a job of a row. repeats keeps the schedules' intervals, in seconds, over the rows of a page.
func (s *Service) convert(ctx context.Context, info jobs.Info, repeats map[uuid.UUID]int64) (*jobsv1.Job, error) {
	j := info.Proto()
	j.Progress, j.Failures, j.Error = progressToProto(info.Progress), int32(info.Failures), info.LastError
	j.StartTime, j.FinishTime, j.CancelRequested = stamp(info.StartedAt), stamp(info.FinishedAt), info.CancelRequested
	j.Action, j.ItemsSpec = argOf(info, "action"), argOf(info, "items_spec")
	if info.State == jobs.Succeeded {
		j.Error = "" // of an attempt that did not matter in the end
	}
	if len(info.Result) > 0 {
		result, err := resultToProto(info.Result)
		if err != nil {
			return nil, fmt.Errorf("result of job %s: %w", info.ID, err)
		}
		j.Result = result
	}
	if info.ScheduleID != uuid.Nil {
		if _, ok := repeats[info.ScheduleID]; !ok {
			all, err := s.deps.Jobs.ListSchedules(ctx, info.Namespace)
			if err != nil {
				return nil, err
			}
			repeats[info.ScheduleID] = 0 // also of a schedule that is gone
			for _, sc := range all {
				repeats[sc.ID] = int64(sc.RepeatEvery / time.Second)
			}
		}
		j.RepeatEverySeconds = repeats[info.ScheduleID]
	}
	return j, nil
}

func progressToProto(p jobs.Progress) *jobsv1.Progress {
	return &jobsv1.Progress{Done: p.Done, Total: p.Total, Bytes: p.Bytes, Message: p.Message}
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// resultToProto takes a JSON object as it is, and anything else under the key "value".
func resultToProto(data []byte) (*structpb.Struct, error) {
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		m = map[string]any{"value": v}
	}
	return structpb.NewStruct(m)
}

// argOf reads a text from a job's arguments: kinds that a dialect starts keep there what it calls them. Empty if the kind
// has no such field.
func argOf(info jobs.Info, field protoreflect.Name) string {
	t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(info.ArgsType))
	if err != nil {
		return ""
	}
	fd := t.Descriptor().Fields().ByName(field)
	if fd == nil || fd.Kind() != protoreflect.StringKind {
		return ""
	}
	msg := t.New()
	if err := proto.Unmarshal(info.Args, msg.Interface()); err != nil {
		return ""
	}
	return msg.Get(fd).String()
}

func (s *Service) eventToProto(ctx context.Context, ev jobs.Event) (*jobsv1.JobEvent, error) {
	out := &jobsv1.JobEvent{Id: ev.ID, Time: timestamppb.New(ev.Time)}
	switch {
	case ev.Progress != nil:
		out.Event = &jobsv1.JobEvent_Progress{Progress: progressToProto(*ev.Progress)}
	case ev.Log != nil:
		out.Event = &jobsv1.JobEvent_Log{Log: &jobsv1.LogLine{Level: strings.ToLower(ev.Log.Level.String()), Text: ev.Log.Line}}
	case ev.State != nil:
		info, err := s.deps.Jobs.Get(ctx, ev.Job)
		if err != nil {
			return nil, err
		}
		job, err := s.toProto(ctx, info)
		if err != nil {
			return nil, err
		}
		// The row may have moved on since; each event tells its own state.
		job.State = ev.State.State.Proto()
		job.Progress = progressToProto(ev.State.Progress)
		job.Failures, job.Error = int32(ev.State.Failures), ev.State.Error
		if !ev.State.State.Terminal() {
			job.Result, job.FinishTime = nil, nil
		}
		out.Event = &jobsv1.JobEvent_State{State: job}
	}
	return out, nil
}
