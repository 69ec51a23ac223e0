package channels

import (
	"google.golang.org/protobuf/proto"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
)

// Some of what is asked for on a channel is other services' work. Schedules and requests for all channels at once make
// their jobs here, in the transaction that gives the reason: with the owners' kinds, keys and locks, so that such a job
// and one that was asked for at its owner are the same work, which is not done twice.
const (
	kindSync   = "sync.channel"
	kindPoll   = "sync.poll"
	kindForget = "sync.forget"

	actionSync         = "synchronize"
	actionSyncRepodata = "synchronize_repodata"
	// actionPoll asks a mirror's upstream whether it has changed. It is for schedules only.
	actionPoll = "poll"
)

// foreignActions are the actions that other services do.
var foreignActions = map[string]action{
	actionSync:         {kind: kindSync, permission: authz.ChannelSync},
	actionSyncRepodata: {kind: kindSync, permission: authz.ChannelSync},
	actionPullCounts:   {kind: kindPullCounts, permission: authz.ChannelSync},
}

var scheduleOnly = map[string]action{actionPoll: {kind: kindPoll, permission: authz.ChannelSync}}

// jobOf is the request for the job of an action, whoever owns its kind. The items are for the actions of this service.
func jobOf(ch *channelRow, a action, as authn.Caller, items string) (jobs.EnqueueParams, error) {
	var args proto.Message
	lock, key := "sync/", ch.ID.String()
	switch a.kind {
	case kindSync:
		args = &syncv1.SyncJobArgs{ChannelId: ch.ID.String(), Channel: ch.Name, Inspect: a.shown == actionSync, Action: a.shown}
	case kindPoll:
		args, lock = &syncv1.PollJobArgs{ChannelId: ch.ID.String(), Channel: ch.Name}, "sync.poll/"
	case kindPullCounts:
		args, lock = &metricsv1.PullJobArgs{ChannelId: ch.ID.String(), Channel: ch.Name, Action: actionPullCounts}, "metrics/"
	default:
		return actionParams(ch, a, as, items)
	}
	principal, err := as.Marshal()
	if err != nil {
		return jobs.EnqueueParams{}, err
	}
	return jobs.EnqueueParams{
		Kind: a.kind, Namespace: ch.Namespace, Resource: resourceName(ch), CoalesceKey: key, Coalesce: jobs.Join,
		Principal: jobs.Principal{Name: as.Actor(), Data: principal},
		Locks:     []jobs.Lock{{Resource: lock + ch.ID.String(), Exclusive: true}},
		Args:      args,
	}, nil
}

// owner is the service as which an action runs that nobody in particular asks for.
func (a action) owner() authn.Caller {
	switch a.kind {
	case kindSync, kindPoll:
		return authn.Service("sync")
	case kindPullCounts:
		return authn.Service("metrics")
	}
	return authn.Service("channels")
}

// fits reports whether a channel has the action.
func (a action) fits(ch *channelRow) bool {
	switch a.kind {
	case kindSync, kindPoll:
		return ch.kind() == channelsv1.ChannelKind_CHANNEL_KIND_MIRROR
	case kindPullCounts:
		return ch.kind() == channelsv1.ChannelKind_CHANNEL_KIND_HOSTED
	}
	return true
}
