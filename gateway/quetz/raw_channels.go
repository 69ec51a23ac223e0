package quetz

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/entrepot-dev/entrepot/gateway/edge"
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
		req.Name, _ = f.string("name")
	}
	if s, ok := f.string("description"); ok {
		if len([]rune(s)) > 300 {
			f.fail("description", "string_too_long", "String should have at most 300 characters")
		}
		req.Description = s
	}
	private := f.bool("private", true)
	req.Private = &private
	if n, ok := f.int("size_limit"); ok {
		req.SizeLimit = &n
	}
	if n, ok := f.int("ttl"); ok {
		req.Ttl = &n
	}
	readMirror(f, req)
	actions, given := f.strings("actions")
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
	d.Files.Changed(ch.GetId())
	return writeNull(w, http.StatusCreated)
}

// readMirror reads the fields that make a channel a mirror or a proxy.
func readMirror(f *form, req *channelsv1.CreateChannelRequest) {
	url, hasURL := f.string("mirror_channel_url")
	mode, hasMode := f.string("mirror_mode")
	if hasURL && !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
		f.fail("mirror_channel_url", "string_pattern_mismatch", "String should match pattern '^(http|https)://.+'")
	}
	if hasMode && mode != "proxy" && mode != "mirror" {
		f.fail("mirror_mode", "enum", "Input should be 'proxy' or 'mirror'")
	}
	switch {
	case hasURL && !hasMode:
		f.fail("mirror_mode", "value_error", "Value error, 'mirror_channel_url' provided but 'mirror_mode' is undefined")
	case hasMode && !hasURL:
		f.fail("mirror_channel_url", "value_error", "Value error, 'mirror_mode' provided but 'mirror_channel_url' is undefined")
	}
	var lists channelsv1.MirrorSettings
	if meta := f.object("metadata"); meta != nil {
		lists.Includelist, _ = meta.strings("includelist")
		lists.Excludelist, _ = meta.strings("excludelist")
		lists.Proxylist, _ = meta.strings("proxylist")
		f.merge(meta)
	}
	if !hasURL || !hasMode {
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
	name := r.PathValue("channel")
	now, err := d.Channels.GetChannel(r.Context(), &channelsv1.GetChannelRequest{Channel: name})
	if err != nil {
		return err
	}
	f, err := readForm(r)
	if err != nil {
		return err
	}
	settings := &channelsv1.Channel{}
	var mask fieldmaskpb.FieldMask
	for field := range f.fields {
		switch field {
		case "private", "ttl", "size_limit", "metadata":
		default:
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
		for key, list := range map[string]*[]string{
			"includelist": &settings.Mirror.Includelist, "excludelist": &settings.Mirror.Excludelist, "proxylist": &settings.Mirror.Proxylist,
		} {
			if meta.has(key) && now.GetKind() != channelsv1.ChannelKind_CHANNEL_KIND_HOSTED { // which takes nothing from anywhere
				*list, _ = meta.strings(key)
				mask.Paths = append(mask.Paths, "mirror."+key)
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
	ch, err := d.Channels.UpdateChannel(r.Context(), &channelsv1.UpdateChannelRequest{Channel: name, Settings: settings, UpdateMask: &mask})
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
	username, role, err := memberForm(r)
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

// listed returns a channel that has package lists: hosted or mirror.
func (d *dialect) listed(r *http.Request) (*channelsv1.Channel, error) {
	ch, err := d.Channels.GetChannel(r.Context(), &channelsv1.GetChannelRequest{Channel: r.PathValue("channel")})
	if err == nil && ch.GetKind() == channelsv1.ChannelKind_CHANNEL_KIND_PROXY {
		return nil, kindError("proxy")
	}
	return ch, err
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
