package storage

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/refs"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

var problems = map[string]storagev1.Problem{
	corrupt: storagev1.Problem_PROBLEM_CORRUPT, missing: storagev1.Problem_PROBLEM_MISSING, unreadable: storagev1.Problem_PROBLEM_UNREADABLE,
}

func (f finding) toProto(owners []refs.Owner) *storagev1.Finding {
	out := &storagev1.Finding{
		Sha256: f.Digest.String(), Problem: problems[f.Problem], Size: f.Size, Quarantined: f.Quarantined, Detail: f.Detail,
		FindTime: timestamppb.New(f.FoundAt), LastFindTime: timestamppb.New(f.LastAt), ResolveTime: stamp(f.ResolvedAt),
	}
	for _, o := range owners {
		out.Owners = append(out.Owners, o.Kind+"/"+o.ID)
	}
	return out
}

func stamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}
