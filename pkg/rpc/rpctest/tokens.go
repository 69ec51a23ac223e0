package rpctest

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
)

// Sign makes a token with the keys that the platform under test trusts, as of a time. RefusesBadTokens makes an expired
// one and one for another audience with it.
type Sign func(t testing.TB, caller authn.Caller, audience string, now time.Time) string

// RefusesBadTokens calls every method that the server behind the connection has, as its own reflection lists them, with
// each kind of bad token, and fails for any that is not refused as Unauthenticated. The connection is a bare one: it
// must not attach tokens of its own. It returns the methods it tried.
func RefusesBadTokens(t *testing.T, conn grpc.ClientConnInterface, sign Sign) []string {
	t.Helper()
	methods := Methods(t, conn)
	if len(methods) == 0 {
		t.Fatal("the server has no methods")
	}
	caller := authn.Caller{UserID: "5bb7a7a5-0b0a-4f5c-9a5f-5d9a4c7f7a10", Name: "mallory", Target: "gateway"}
	for _, full := range methods {
		audience := rpc.Audience(strings.Split(full, "/")[1])
		for name, pairs := range badTokens(t, caller, audience, sign) {
			if err := call(t.Context(), conn, full, pairs); status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s with %s: got %v, want Unauthenticated", full, name, err)
			}
		}
	}
	return methods
}

// badTokens returns metadata pairs by what is wrong with them.
func badTokens(t *testing.T, caller authn.Caller, audience string, sign Sign) map[string][]string {
	t.Helper()
	now := time.Now()
	forger, err := authn.NewSigner(nil, NewKey(t, "forged"))
	if err != nil {
		t.Fatal(err)
	}
	forged, _, err := forger.Sign(caller, audience)
	if err != nil {
		t.Fatal(err)
	}
	claims := jwt.MapClaims{
		"iss": "entrepot", "aud": []string{audience}, "sub": caller.UserID, "tgt": "gateway",
		"iat": now.Unix(), "exp": now.Add(30 * time.Second).Unix(),
	}
	good := sign(t, caller, audience, now)
	head, rest, _ := strings.Cut(good, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	header, _, err := jwt.NewParser().ParseUnverified(good, jwt.MapClaims{})
	if err != nil {
		t.Fatal(err)
	}
	unsigned := func(method jwt.SigningMethod, key any) string {
		tok := jwt.NewWithClaims(method, claims)
		tok.Header["kid"] = header.Header["kid"]
		s, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	none := unsigned(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType)
	hmac := unsigned(jwt.SigningMethodHS256, []byte("secret"))
	other := caller
	other.Name, other.UserID = "root", "00000000-0000-4000-8000-000000000001"
	otherPayload := strings.Split(sign(t, other, audience, now), ".")[1]
	token := rpc.MetadataToken
	return map[string][]string{
		"no token":                  nil,
		"an empty token":            {token, ""},
		"no JWS":                    {token, "letmein"},
		"a token of another signer": {token, forged},
		"the algorithm none":        {token, none},
		"the algorithm HS256":       {token, hmac},
		"another payload":           {token, head + "." + otherPayload + "." + signature},
		"no signature":              {token, head + "." + payload + "."},
		"an expired token":          {token, sign(t, caller, audience, now.Add(-2*time.Minute))},
		"a token from the future":   {token, sign(t, caller, audience, now.Add(2*time.Minute))},
		"another audience":          {token, sign(t, caller, audience+"x", now)},
		"two tokens":                {token, good, token, good},
		"authorization instead":     {"authorization", "Bearer " + good},
		"a bad target credential":   {rpc.MetadataTarget, "gateway:guess"},
		"half a target credential":  {rpc.MetadataTarget, "gateway"},
		"two target credentials":    {rpc.MetadataTarget, "gateway:" + TargetSecret, rpc.MetadataTarget, "gateway:" + TargetSecret},
	}
}

// call makes a call with an empty request, unary or streaming: on the wire both begin alike.
func call(ctx context.Context, conn grpc.ClientConnInterface, method string, pairs []string) error {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, pairs...), 10*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// Methods lists all methods of the server, as `/package.Service/Method`, but for health and reflection.
func Methods(t *testing.T, conn grpc.ClientConnInterface) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(req *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
		res, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	list := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	var methods []string
	for _, s := range list.GetListServicesResponse().GetService() {
		if strings.HasPrefix(s.GetName(), "grpc.") {
			continue
		}
		res := ask(&reflectionpb.ServerReflectionRequest{
			MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: s.GetName()},
		})
		var set descriptorpb.FileDescriptorSet
		for _, raw := range res.GetFileDescriptorResponse().GetFileDescriptorProto() {
			f := &descriptorpb.FileDescriptorProto{}
			if err := proto.Unmarshal(raw, f); err != nil {
				t.Fatal(err)
			}
			set.File = append(set.File, f)
		}
		files, err := protodesc.FileOptions{AllowUnresolvable: true}.NewFiles(&set)
		if err != nil {
			t.Fatal(err)
		}
		d, err := files.FindDescriptorByName(protoreflect.FullName(s.GetName()))
		if err != nil {
			t.Fatal(err)
		}
		ms := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range ms.Len() {
			methods = append(methods, "/"+s.GetName()+"/"+string(ms.Get(i).Name()))
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(methods)
	return methods
}

// Signs returns a Sign for keys that the test holds.
func Signs(key authn.Key) Sign {
	return func(t testing.TB, caller authn.Caller, audience string, now time.Time) string {
		t.Helper()
		s, err := authn.NewSigner(func() time.Time { return now }, key)
		if err != nil {
			t.Fatal(err)
		}
		token, _, err := s.Sign(caller, audience)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
}
