package quetz

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	quetzv1 "github.com/entrepot-dev/entrepot/proto/entrepot/rest/quetz/v1"
)

// listChannels answers the unpaged list, written as it is read.
func (d *dialect) listChannels(w http.ResponseWriter, r *http.Request) error {
	public, err := queryBool(r, "public", true)
	if err != nil {
		return err
	}
	list := newList(w)
	_, err = collect(0, -1, func(skip int64, size int32) (int, int64, error) {
		got, err := d.Channels.ListChannels(r.Context(), &channelsv1.ListChannelsRequest{
			Query: r.URL.Query().Get("q"), MemberOnly: !public, Skip: skip, PageSize: size,
		})
		if err != nil {
			return 0, 0, err
		}
		for _, ch := range got.GetChannels() {
			if err := list.add(channelToQuetz(ch)); err != nil {
				return 0, 0, err
			}
		}
		return len(got.GetChannels()), got.GetTotalSize(), nil
	})
	return list.end(err)
}

// createChannel checks everything, the actions included, before anything is made.
func (d *dialect) createChannel(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(r)
	if err != nil {
		return err
	}
	req := &channelsv1.CreateChannelRequest{}
	if f.require("name") {
		req.Name, _ = f.text("name")
		f.atMost("name", req.Name, 50)
	}
	req.Description, _ = f.string("description")
	f.atMost("description", req.Description, 300)
	private := f.bool("private", true)
	req.Private = &private
	if n, ok := f.int("size_limit"); ok {
		req.SizeLimit = &n
	}
	if n, ok := f.int("ttl"); ok {
		req.Ttl = &n
	}
	f.notNull("ttl", "int_type", noInt)
	readMirror(f, req)
	actions, given := readActions(f)
	if err := f.err(); err != nil {
		return err
	}
	if req.GetMirror() != nil && len(req.GetMirror().GetIncludelist()) > 0 && len(req.GetMirror().GetExcludelist()) > 0 {
		return &statusError{http.StatusUnprocessableEntity, "Cannot use both `includelist` and `excludelist` together."}
	}
	for _, action := range actions {
		kind := req.GetKind()
		if kind == channelsv1.ChannelKind_CHANNEL_KIND_UNSPECIFIED {
			kind = channelsv1.ChannelKind_CHANNEL_KIND_HOSTED
		}
		if err := checkAction(kind, req.GetName(), action); err != nil {
			return err
		}
	}
	announce, err := queryBool(r, "register_mirror", false)
	if err != nil {
		return err
	}
	ch, err := d.Channels.CreateChannel(r.Context(), req)
	if err != nil {
		return err
	}
	d.Files.Changed(ch.GetName()) // of which it may be known that there is none, also if what follows is refused
	if isMirror(ch.GetKind()) && !given {
		actions = []string{"synchronize_repodata"}
	}
	svc := &Service{Channels: d.Channels, Sync: d.Sync, Jobs: d.Jobs}
	for _, action := range actions {
		if _, err := svc.start(r.Context(), &quetzv1.ActionRequest{ChannelName: ch.GetName(), Action: action}); err != nil {
			return err
		}
	}
	if announce && ch.GetKind() != channelsv1.ChannelKind_CHANNEL_KIND_HOSTED {
		// What comes of it is in the job: the channel is there either way.
		_, err := d.Channels.AnnounceMirror(r.Context(), &channelsv1.AnnounceMirrorRequest{
			Channel: ch.GetName(), BaseUrl: d.base(r), ApiKey: r.URL.Query().Get("mirror_api_key"),
		})
		if err != nil {
			slog.WarnContext(r.Context(), "a mirror could not be announced to its upstream", "channel", ch.GetName(), "error", err)
		}
	}
	return writeNull(w, http.StatusCreated)
}

// maxActions bounds what is asked to be done with a new channel: each is a job.
const maxActions = 100

// readActions reads what is to be done at once. Absent differs from none.
func readActions(f *form) (actions []string, given bool) {
	items, given := f.items("actions", maxActions)
	for i, item := range items {
		if f.full() {
			break
		}
		var action string
		if json.Unmarshal(item, &action) != nil || actionKinds[action] == nil {
			f.failAt(invalidField{
				Type: "enum", Loc: []any{"body", "actions", i}, Msg: oneOf(actionNames), Input: item, Ctx: map[string]any{"expected": expected(actionNames)},
			})
		}
		actions = append(actions, action)
	}
	return actions, given
}

// readMirror reads the fields that make a channel a mirror or a proxy.
func readMirror(f *form, req *channelsv1.CreateChannelRequest) {
	url, hasURL := f.string("mirror_channel_url")
	if hasURL {
		f.httpURL("mirror_channel_url", url)
	}
	mode, hasMode := "", false
	if !f.isNull("mirror_mode") {
		mode, hasMode = f.oneOf("mirror_mode", []string{"proxy", "mirror"})
	}
	var lists channelsv1.MirrorSettings
	if meta := f.object("metadata"); meta != nil {
		lists.Includelist, _ = meta.strings("includelist")
		lists.Excludelist, _ = meta.strings("excludelist")
		lists.Proxylist, _ = meta.strings("proxylist")
		f.merge(meta)
	}
	switch {
	case f.err() != nil: // the two are compared when each is one
		return
	case hasURL && !hasMode:
		f.failWhole("'mirror_channel_url' provided but 'mirror_mode' is undefined")
		return
	case hasMode && !hasURL:
		f.failWhole("'mirror_mode' provided but 'mirror_channel_url' is undefined")
		return
	case !hasURL:
		return
	}
	req.Mirror = &lists
	req.Mirror.Url = url
	req.Kind = channelsv1.ChannelKind_CHANNEL_KIND_MIRROR
	if mode == "proxy" {
		req.Kind = channelsv1.ChannelKind_CHANNEL_KIND_PROXY
	}
}

// patchChannel changes what is present; null means null, absent means as it was.
func (d *dialect) patchChannel(w http.ResponseWriter, r *http.Request) error {
	f, now, err := d.channelForm(r, r.PathValue("channel"), isAny)
	if err != nil {
		return err
	}
	if authn.FromContext(r.Context()).Anonymous() {
		return fault.New(fault.Unauthenticated, "Not logged in")
	}
	settings := &channelsv1.Channel{}
	var mask fieldmaskpb.FieldMask
	for _, field := range []string{"name", "description", "mirror_channel_url", "mirror_mode", "actions"} { // fields that are none are ignored
		if f.has(field) {
			return &statusError{http.StatusUnprocessableEntity, "attribute '" + field + "' of channel can not be changed"}
		}
	}
	if f.has("private") {
		settings.Private = f.bool("private", true)
		mask.Paths = append(mask.Paths, "private")
	}
	if n, ok := f.int("ttl"); ok {
		settings.Ttl = n
		mask.Paths = append(mask.Paths, "ttl")
	}
	f.notNull("ttl", "int_type", noInt)
	if f.has("size_limit") {
		if n, ok := f.int("size_limit"); ok {
			if n < 0 {
				return &statusError{http.StatusUnprocessableEntity, "must be positive value"}
			}
			settings.SizeLimit = &n
		}
		mask.Paths = append(mask.Paths, "size_limit")
	}
	if meta := f.object("metadata"); meta != nil {
		settings.Mirror = &channelsv1.MirrorSettings{}
		for _, list := range []struct {
			key string
			to  *[]string
		}{
			{"includelist", &settings.Mirror.Includelist}, {"excludelist", &settings.Mirror.Excludelist}, {"proxylist", &settings.Mirror.Proxylist},
		} {
			if meta.has(list.key) && now.GetKind() != channelsv1.ChannelKind_CHANNEL_KIND_HOSTED { // which takes nothing from anywhere
				*list.to, _ = meta.strings(list.key)
				mask.Paths = append(mask.Paths, "mirror."+list.key)
			}
		}
		f.merge(meta)
	}
	if err := f.err(); err != nil {
		return err
	}
	if len(mask.Paths) == 0 { // nothing to change, but the right is asked for
		settings.Private, mask.Paths = now.GetPrivate(), []string{"private"}
	}
	ch, err := d.Channels.UpdateChannel(r.Context(), &channelsv1.UpdateChannelRequest{Channel: now.GetName(), Settings: settings, UpdateMask: &mask})
	if err != nil {
		return err
	}
	d.Files.Changed(ch.GetId())
	full := channelToQuetz(ch)
	edge.WriteJSON(w, http.StatusOK, "application/json", channelBase{
		Name: full.GetName(), Description: full.Description, Private: full.GetPrivate(), SizeLimit: full.SizeLimit,
		TTL: full.GetTtl(), MirrorChannelURL: full.MirrorChannelUrl, MirrorMode: full.MirrorMode,
	})
	return nil
}

// channelBase is a channel without the two counts.
type channelBase struct {
	Name             string  `json:"name"`
	Description      *string `json:"description"`
	Private          bool    `json:"private"`
	SizeLimit        *int64  `json:"size_limit"`
	TTL              int64   `json:"ttl"`
	MirrorChannelURL *string `json:"mirror_channel_url"`
	MirrorMode       *string `json:"mirror_mode"`
}

func (d *dialect) deleteChannel(w http.ResponseWriter, r *http.Request) error {
	ch, err := d.Channels.GetChannel(r.Context(), &channelsv1.GetChannelRequest{Channel: r.PathValue("channel")})
	if err != nil {
		return err
	}
	if _, err := d.Channels.DeleteChannel(r.Context(), &channelsv1.DeleteChannelRequest{Channel: ch.GetName()}); err != nil {
		return err
	}
	d.Files.Changed(ch.GetId())
	return writeNull(w, http.StatusOK)
}

type member struct {
	Role string `json:"role"`
	User user   `json:"user"`
}

type user struct {
	ID       string  `json:"id"`
	Username string  `json:"username"`
	Profile  profile `json:"profile"`
}

type profile struct {
	Name      string `json:"name"`
	AvatarURL string `json:"avatar_url"`
}

func (d *dialect) listMembers(w http.ResponseWriter, r *http.Request) error {
	resp, err := d.Channels.ListMembers(r.Context(), &channelsv1.ListMembersRequest{Channel: r.PathValue("channel")})
	if err != nil {
		return err
	}
	edge.WriteJSON(w, http.StatusOK, "application/json", membersOf(resp))
	return nil
}

func (d *dialect) setMember(w http.ResponseWriter, r *http.Request) error {
	f, _, err := d.channelForm(r, r.PathValue("channel"), isAny)
	if err != nil {
		return err
	}
	username, role, err := memberOf(f)
	if err != nil {
		return err
	}
	req := &channelsv1.SetMemberRequest{Channel: r.PathValue("channel"), Username: username, Role: role}
	if _, err := d.Channels.SetMember(r.Context(), req); err != nil {
		return unknownUser(err, req.GetUsername())
	}
	return writeNull(w, http.StatusCreated)
}

func (d *dialect) removeMember(w http.ResponseWriter, r *http.Request) error {
	if _, err := d.ofKind(r, r.PathValue("channel"), isAny); err != nil {
		return err
	}
	name := r.URL.Query().Get("username")
	if name == "" {
		return queryMissing("username")
	}
	_, err := d.Channels.RemoveMember(r.Context(), &channelsv1.RemoveMemberRequest{Channel: r.PathValue("channel"), Username: name})
	if err != nil {
		return unknownUser(err, name)
	}
	return writeNull(w, http.StatusOK)
}

// unknownUser words as Quetz does that a user does not exist. Channels and memberships that do not have reasons of
// their own.
func unknownUser(err error, name string) error {
	var f *fault.Error
	if errors.As(err, &f) && f.Kind == fault.NotFound && f.Reason == "" {
		return fault.New(fault.NotFound, "user %s not found", name)
	}
	return err
}

func queryMissing(name string) error {
	return invalidFields{{Type: "missing", Loc: []any{"query", name}, Msg: "Field required", Input: json.RawMessage("null")}}
}

// ofKind returns a channel that may be read, or refuses a route that channels of its kind do not have.
func (d *dialect) ofKind(r *http.Request, name string, has func(channelsv1.ChannelKind) bool) (*channelsv1.Channel, error) {
	ch, err := d.Channels.GetChannel(r.Context(), &channelsv1.GetChannelRequest{Channel: name})
	if err == nil && !has(ch.GetKind()) {
		return nil, kindError(modeOf(ch.GetKind()))
	}
	return ch, err
}

// channelForm reads the JSON object of a route of a channel. The order is the dialect's: what is no JSON is refused first,
// then a channel that is not there, that may not be read, or whose kind does not have the route. What is wrong with the
// fields comes after that, and the route's own right last.
func (d *dialect) channelForm(r *http.Request, name string, has func(channelsv1.ChannelKind) bool) (*form, *channelsv1.Channel, error) {
	f, err := readForm(r)
	if err != nil {
		return nil, nil, err
	}
	ch, err := d.ofKind(r, name, has)
	return f, ch, err
}

// listed returns a channel that has package lists: hosted or mirror.
func (d *dialect) listed(r *http.Request) (*channelsv1.Channel, error) {
	return d.ofKind(r, r.PathValue("channel"), isNoProxy)
}

// listedFor finds the channel for the routes of one package, of which a proxy has none. Who may not read the channel may yet have a role on the package:
// then the channel's name is taken as it was sent, and the call about the package decides.
func (d *dialect) listedFor(r *http.Request) (channel string, err error) {
	ch, err := d.Channels.GetChannel(r.Context(), &channelsv1.GetChannelRequest{Channel: r.PathValue("channel")})
	if fault.Is(err, fault.Denied) {
		return r.PathValue("channel"), nil
	}
	return ch.GetName(), err
}
