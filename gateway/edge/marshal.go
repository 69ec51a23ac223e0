package edge

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"reflect"
	"strconv"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Marshaler writes protos as the dialects' clients expect JSON: field names as in the proto, 64-bit integers as
// numbers, absent optional values as null, empty lists as []. Well-known types look as protojson prints them.
// It reads with protojson, which accepts all of this, and ignores unknown keys.
type Marshaler struct {
	// NullWhenEmpty names repeated fields that are null rather than [] when they are empty.
	NullWhenEmpty map[protoreflect.Name]bool
}

var _ runtime.Marshaler = (*Marshaler)(nil)

// ContentType returns application/json.
func (m *Marshaler) ContentType(any) string { return "application/json" }

// Marshal writes v, a proto message or anything encoding/json takes.
func (m *Marshaler) Marshal(v any) ([]byte, error) {
	msg, ok := v.(proto.Message)
	if !ok {
		return json.Marshal(v)
	}
	return m.appendMessage(nil, msg.ProtoReflect())
}

// Unmarshal reads data into v.
func (m *Marshaler) Unmarshal(data []byte, v any) error {
	msg, ok := v.(proto.Message)
	if !ok {
		// A body that is one field of the request comes as a pointer to that field, which is a message as well: 64-bit
		// integers as strings and names of enums are right there too.
		if field := reflect.ValueOf(v); field.Kind() == reflect.Pointer && field.Type().Elem().Kind() == reflect.Pointer && string(bytes.TrimSpace(data)) != "null" {
			fresh := reflect.New(field.Type().Elem().Elem())
			if msg, ok := fresh.Interface().(proto.Message); ok {
				if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, msg); err != nil {
					return err
				}
				field.Elem().Set(fresh)
				return nil
			}
		}
		return json.Unmarshal(data, v)
	}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, msg)
}

// NewDecoder reads one JSON value; an empty body leaves v as it is.
func (m *Marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(data)) == 0 {
			return io.EOF
		}
		return m.Unmarshal(data, v)
	})
}

// NewEncoder writes values one after another.
func (m *Marshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		data, err := m.Marshal(v)
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	})
}

func (m *Marshaler) appendMessage(b []byte, msg protoreflect.Message) ([]byte, error) {
	if msg.Descriptor().FullName().Parent() == "google.protobuf" {
		if msg.Descriptor().Name() == "Empty" {
			return append(b, "{}"...), nil
		}
		text, err := protojson.Marshal(msg.Interface())
		if err != nil {
			return nil, err
		}
		// protojson varies its blanks on purpose.
		var compact bytes.Buffer
		if err := json.Compact(&compact, text); err != nil {
			return nil, err
		}
		return append(b, compact.Bytes()...), nil
	}
	b = append(b, '{')
	fields := msg.Descriptor().Fields()
	first := true
	for i := range fields.Len() {
		fd := fields.Get(i)
		if oneof := fd.ContainingOneof(); oneof != nil && !oneof.IsSynthetic() && !msg.Has(fd) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, '"')
		b = append(b, fd.Name()...)
		b = append(b, '"', ':')
		var err error
		if b, err = m.appendField(b, msg, fd); err != nil {
			return nil, fmt.Errorf("%s: %w", fd.FullName(), err)
		}
	}
	return append(b, '}'), nil
}

func (m *Marshaler) appendField(b []byte, msg protoreflect.Message, fd protoreflect.FieldDescriptor) (_ []byte, err error) {
	switch {
	case fd.IsList():
		list := msg.Get(fd).List()
		if list.Len() == 0 && m.NullWhenEmpty[fd.Name()] {
			return append(b, "null"...), nil
		}
		b = append(b, '[')
		for i := range list.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = m.appendValue(b, fd, list.Get(i)); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case fd.IsMap():
		return nil, fmt.Errorf("maps are not part of any REST contract")
	case fd.HasPresence() && !msg.Has(fd):
		return append(b, "null"...), nil
	}
	return m.appendValue(b, fd, msg.Get(fd))
}

func (m *Marshaler) appendValue(b []byte, fd protoreflect.FieldDescriptor, v protoreflect.Value) ([]byte, error) {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return strconv.AppendBool(b, v.Bool()), nil
	case protoreflect.EnumKind:
		if ev := fd.Enum().Values().ByNumber(v.Enum()); ev != nil {
			return appendString(b, string(ev.Name()))
		}
		return strconv.AppendInt(b, int64(v.Enum()), 10), nil
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind,
		protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return strconv.AppendInt(b, v.Int(), 10), nil
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return strconv.AppendUint(b, v.Uint(), 10), nil
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		if f := v.Float(); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return strconv.AppendFloat(b, f, 'g', -1, 64), nil
		}
		return append(b, "null"...), nil
	case protoreflect.StringKind:
		return appendString(b, v.String())
	case protoreflect.BytesKind:
		return appendString(b, base64.StdEncoding.EncodeToString(v.Bytes()))
	default:
		return m.appendMessage(b, v.Message())
	}
}

func appendString(b []byte, s string) ([]byte, error) {
	text, err := MarshalJSON(s)
	if err != nil {
		return nil, err
	}
	return append(b, text...), nil
}
