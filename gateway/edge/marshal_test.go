package edge_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	quetzv1 "github.com/entrepot-dev/entrepot/proto/entrepot/rest/quetz/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

// fill sets fields of a message at random, some not at all.
func fill(t *rapid.T, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !rapid.Bool().Draw(t, string(fd.Name())) || (fd.Message() != nil && depth == 0) {
			continue
		}
		switch {
		case fd.IsMap():
			continue // none of the APIs has one
		case fd.IsList():
			list := m.Mutable(fd).List()
			for range rapid.IntRange(1, 3).Draw(t, "length") {
				if fd.Message() != nil {
					v := list.NewElement()
					fillMessage(t, v.Message(), depth-1)
					list.Append(v)
				} else {
					list.Append(scalar(t, fd))
				}
			}
		case fd.Message() != nil:
			fillMessage(t, m.Mutable(fd).Message(), depth-1)
		default:
			m.Set(fd, scalar(t, fd))
		}
	}
}

func fillMessage(t *rapid.T, m protoreflect.Message, depth int) {
	switch v := m.Interface().(type) {
	case *timestamppb.Timestamp:
		v.Seconds, v.Nanos = rapid.Int64Range(0, 4e9).Draw(t, "s"), rapid.Int32Range(0, 999_999_999).Draw(t, "ns")
	case *structpb.Struct:
		v.Fields = map[string]*structpb.Value{rapid.String().Draw(t, "k"): structpb.NewStringValue(rapid.String().Draw(t, "v")), "n": structpb.NewNumberValue(1.5)}
	default:
		if m.Descriptor().FullName().Parent() != "google.protobuf" {
			fill(t, m, depth)
		}
	}
}

func scalar(t *rapid.T, fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(fd.Enum().Values().Get(rapid.IntRange(0, fd.Enum().Values().Len()-1).Draw(t, "enum")).Number())
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, "int32"))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "int64"))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(strings.ToValidUTF8(rapid.String().Draw(t, "string"), "?"))
	}
	t.Fatalf("no value for a %s", fd.Kind())
	return protoreflect.Value{}
}

// messages of every API.
var messages = []proto.Message{
	&channelsv1.Channel{}, &channelsv1.ListFilesResponse{}, &jobsv1.Job{}, &jobsv1.JobEvent{}, &identityv1.AuditEvent{}, &identityv1.ApiKey{},
	&syncv1.SyncStatus{}, &quetzv1.Channel{}, &quetzv1.Job{}, &quetzv1.ListPackagesResponse{},
}

// TestMarshalerRoundTrip: the writer is ours and the reader is protojson; what one writes the other reads as it was.
func TestMarshalerRoundTrip(t *testing.T) {
	m := &edge.Marshaler{}
	rapid.Check(t, func(t *rapid.T) {
		want := proto.Clone(rapid.SampledFrom(messages).Draw(t, "message"))
		fill(t, want.ProtoReflect(), 3)
		data, err := m.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(data) {
			t.Fatalf("no JSON: %s", data)
		}
		for name, read := range map[string]func([]byte, any) error{
			"our reader": m.Unmarshal, "protojson": func(b []byte, v any) error { return protojson.Unmarshal(b, v.(proto.Message)) },
		} {
			got := want.ProtoReflect().New().Interface()
			if err := read(data, got); err != nil {
				t.Fatalf("%s: %v: %s", name, err, data)
			}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Fatalf("%s: %s\n%s", name, diff, data)
			}
		}
	})
}

func TestMarshaler(t *testing.T) {
	for name, c := range map[string]struct {
		msg  proto.Message
		want string
	}{
		"64-bit numbers, absent optionals, names of the proto": {
			&quetzv1.Channel{Name: "c", Ttl: math.MaxInt64},
			`{"name":"c","description":null,"private":false,"size_limit":null,"ttl":9223372036854775807,"mirror_channel_url":null,"mirror_mode":null,"members_count":0,"packages_count":0}`,
		},
		"a zero that was set is a zero": {
			&quetzv1.Job{RepeatEverySeconds: proto.Int64(0)},
			`{"items_spec":null,"manifest":"","start_at":null,"repeat_every_seconds":0,"id":0,"owner_id":"","created":"","status":""}`,
		},
		"empty lists":              {&quetzv1.ListChannelsResponse{}, `{"pagination":null,"result":[]}`},
		"signs that HTML minds":    {&quetzv1.GetChannelRequest{ChannelName: "<a&b>\u2028"}, `{"channel_name":"<a&b>` + `\u2028` + `"}`},
		"control signs and quotes": {&quetzv1.GetChannelRequest{ChannelName: "\x00\x1f\"\\\n"}, `{"channel_name":"\u0000\u001f\"\\\n"}`},
		"a time":                   {&identityv1.Namespace{Name: "n", CreateTime: &timestamppb.Timestamp{Seconds: 1}}, `{"name":"n","create_time":"1970-01-01T00:00:01Z"}`},
	} {
		got, err := (&edge.Marshaler{}).Marshal(c.msg)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %v\n got %s\nwant %s", name, err, got, c.want)
		}
	}
	t.Run("a list can be null", func(t *testing.T) {
		m := &edge.Marshaler{NullWhenEmpty: map[protoreflect.Name]bool{"platforms": true}}
		got, err := m.Marshal(&quetzv1.Package{Name: "p"})
		if err != nil || !strings.Contains(string(got), `"platforms":null`) {
			t.Errorf("%s, %v", got, err)
		}
	})
}

func TestABodyThatIsAFieldIsReadLikeAMessage(t *testing.T) {
	for body, want := range map[string]int64{`{"size_limit": "7"}`: 7, `{"sizeLimit": 8}`: 8} {
		var got *channelsv1.Channel
		if err := (&edge.Marshaler{}).Unmarshal([]byte(body), &got); err != nil || got.GetSizeLimit() != want {
			t.Errorf("%s: %v %v", body, got, err)
		}
	}
	var got *channelsv1.Channel
	if err := (&edge.Marshaler{}).Unmarshal([]byte("null"), &got); err != nil || got != nil {
		t.Errorf("null: %v %v", got, err)
	}
}
