package attacktest

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/blob/grant"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
	"github.com/entrepot-dev/entrepot/pkg/seal"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/storage"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// secrets opens what only who has both the database and the master key can.
func secrets(t *testing.T, s *platformtest.Stack) (signing authn.Key, grants grant.Key) {
	t.Helper()
	master, err := seal.LoadOrCreate(filepath.Join(s.DataDir, "master-key"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var id string
	var sealed []byte
	if err := conn.QueryRow(t.Context(), "SELECT id, sealed FROM identity.signing_keys WHERE retire_time IS NULL").Scan(&id, &sealed); err != nil {
		t.Fatal(err)
	}
	seed, err := master.Open(sealed, "signing-key/"+id)
	if err != nil {
		t.Fatal(err)
	}
	return authn.Key{ID: id, Private: ed25519.NewKeyFromSeed(seed)}, grant.Key{ID: "1", Secret: master.Derive("grants")}
}

// jws makes a token by hand, with any header.
func jws(header, claims map[string]any, sign func(input string) []byte) string {
	part := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	input := part(header) + "." + part(claims)
	return input + "." + base64.RawURLEncoding.EncodeToString(sign(input))
}

// TestTokens shows internal tokens that are not what they should be at every door.
func TestTokens(t *testing.T) {
	s := platformtest.Start(t)
	key, grants := secrets(t, s)
	public := key.Private.Public().(ed25519.PublicKey)
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var alice struct{ ID string }
	s.Admin().Must(200, "GET", "/entrepot/v1/users/alice", nil).JSON(&alice)
	now := time.Now()
	claims := func(change map[string]any) map[string]any {
		c := map[string]any{"iss": "entrepot", "sub": alice.ID, "aud": []string{"identity"}, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(), "nam": "alice"}
		for k, v := range change {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
		return c
	}
	header := func(change map[string]any) map[string]any {
		h := map[string]any{"alg": "EdDSA", "typ": "JWT", "kid": key.ID}
		for k, v := range change {
			if h[k] = v; v == nil {
				delete(h, k)
			}
		}
		return h
	}
	ed := func(private ed25519.PrivateKey) func(string) []byte {
		return func(in string) []byte { return ed25519.Sign(private, []byte(in)) }
	}
	mac := func(secret []byte) func(string) []byte {
		return func(in string) []byte { h := hmac.New(sha256.New, secret); h.Write([]byte(in)); return h.Sum(nil) }
	}
	nothing := func(string) []byte { return nil }
	good := jws(header(nil), claims(nil), ed(key.Private))
	signer, err := grant.NewSigner(grants, nil)
	if err != nil {
		t.Fatal(err)
	}
	upload, err := signer.Sign(grant.Grant{Methods: grant.Write, Expires: now.Add(time.Minute), Audience: storage.Audience})
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"alg none": jws(header(map[string]any{"alg": "none"}), claims(nil), nothing), "alg None": jws(header(map[string]any{"alg": "None"}), claims(nil), nothing), "alg NONE with a signature": jws(header(map[string]any{"alg": "NONE"}), claims(nil), ed(key.Private)),
		"no alg": jws(header(map[string]any{"alg": nil}), claims(nil), ed(key.Private)), "alg empty": jws(header(map[string]any{"alg": ""}), claims(nil), ed(key.Private)),
		"HS256 with the public key": jws(header(map[string]any{"alg": "HS256"}), claims(nil), mac(public)), "HS256 with its hexadecimal digits": jws(header(map[string]any{"alg": "HS256"}), claims(nil), mac([]byte(hex.EncodeToString(public)))),
		"HS512": jws(header(map[string]any{"alg": "HS512"}), claims(nil), mac(public)), "RS256": jws(header(map[string]any{"alg": "RS256"}), claims(nil), ed(key.Private)), "Ed25519 by another name": jws(header(map[string]any{"alg": "ES256"}), claims(nil), ed(key.Private)),
		"another key under our name": jws(header(nil), claims(nil), ed(other)), "another key under its name": jws(header(map[string]any{"kid": "other"}), claims(nil), ed(other)), "our key under another name": jws(header(map[string]any{"kid": "x"}), claims(nil), ed(key.Private)),
		"no kid": jws(header(map[string]any{"kid": nil}), claims(nil), ed(key.Private)), "kid is a path": jws(header(map[string]any{"kid": "../../../dev/null"}), claims(nil), mac(nil)), "kid is a number": jws(header(map[string]any{"kid": 1}), claims(nil), ed(key.Private)),
		"the key comes along":      jws(header(map[string]any{"jwk": map[string]any{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(other.Public().(ed25519.PublicKey))}}), claims(nil), ed(other)),
		"the key is to be fetched": jws(header(map[string]any{"jku": "http://127.0.0.1:1/keys"}), claims(nil), ed(other)), "crit": jws(header(map[string]any{"crit": []string{"exp"}, "b64": false}), claims(nil), ed(other)),
		"expired": jws(header(nil), claims(map[string]any{"iat": now.Add(-3 * time.Minute).Unix(), "exp": now.Add(-2 * time.Minute).Unix()}), ed(key.Private)), "no expiry": jws(header(nil), claims(map[string]any{"exp": nil}), ed(key.Private)),
		"not yet": jws(header(nil), claims(map[string]any{"iat": now.Add(time.Hour).Unix(), "nbf": now.Add(time.Hour).Unix(), "exp": now.Add(2 * time.Hour).Unix()}), ed(key.Private)), "another audience": jws(header(nil), claims(map[string]any{"aud": []string{"channels"}}), ed(key.Private)),
		"no audience": jws(header(nil), claims(map[string]any{"aud": nil}), ed(key.Private)), "another issuer": jws(header(nil), claims(map[string]any{"iss": "other"}), ed(key.Private)), "no issuer": jws(header(nil), claims(map[string]any{"iss": nil}), ed(key.Private)),
		"cut": good[:len(good)-4], "no signature": good[:strings.LastIndexByte(good, '.')+1], "two dots": strings.Replace(good, ".", "..", 1), "a fourth part": good + ".x", "empty": "", "a dot": "..", "an API key": s.AdminKey, "a grant": upload, "a key id": s.AdminKey[:authn.KeyIDLength],
		"very long": good + strings.Repeat("A", 100_000), "bearer": "Bearer " + good,
	}
	service := identityv1.NewIdentityServiceClient(s.ServiceConn())
	door := identityv1.NewIdentityServiceClient(s.Conn())
	with := func(pairs ...string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), pairs...)
	}
	if me, err := service.GetMe(with(rpc.MetadataToken, good), &identityv1.GetMeRequest{}); err != nil || me.GetUser().GetUsername() != "alice" {
		t.Fatalf("the good token, without which nothing here means anything: %v, %v", me, err)
	}
	bad["the good one"] = good // which no door but the services' takes
	tried := 0
	for name, token := range bad {
		if len(token) < 50_000 && name != "the good one" {
			tried++
			if _, err := service.GetMe(with(rpc.MetadataToken, token), &identityv1.GetMeRequest{}); status.Code(err) != codes.Unauthenticated {
				t.Errorf("service port, %s: %v", name, err)
			}
			if _, err := service.GetMe(with(rpc.MetadataToken, token, rpc.MetadataToken, good), &identityv1.GetMeRequest{}); status.Code(err) != codes.Unauthenticated {
				t.Errorf("service port, %s and a good one: %v", name, err)
			}
		}
		if name == "an API key" {
			continue // which the edge is for
		}
		if len(token) < 50_000 {
			tried++
			for _, md := range [][]string{{"authorization", "Bearer " + token}, {rpc.MetadataToken, token}, {rpc.MetadataTarget, "gateway:" + token}} {
				if _, err := door.GetMe(with(md...), &identityv1.GetMeRequest{}); status.Code(err) != codes.Unauthenticated {
					t.Errorf("front door, %s as %s: %v", name, md[0], err)
				}
			}
		}
		for field, value := range map[string]string{"X-Api-Key": token, "Authorization": "Bearer " + token, "Cookie": "entrepot_session=" + token, "Entrepot-Token": token} {
			if len(token) > 50_000 || token == "" {
				continue
			}
			tried++
			if resp := s.Anonymous().In(t).Send(0, platformtest.Request{Method: "GET", Path: "/api/me", Header: http.Header{field: {value}}}); resp.Status != 401 {
				t.Errorf("edge, %s as %s: %d %s", name, field, resp.Status, resp.Body)
			}
		}
	}
	whole(t, s)
	t.Logf("%d tokens, %d tries", len(bad), tried)
}

// TestGrants shows grants that are for something else to the data plane, and to everybody else.
func TestGrants(t *testing.T) {
	s := platformtest.Start(t)
	_, grants := secrets(t, s)
	data, filename := synctest.Package(t, "noarch", "granted", "1.0", dist.Conda)
	other, otherName := synctest.Package(t, "noarch", "others", "1.0", dist.Conda)
	admin := s.Admin().In(t)
	admin.Must(201, "POST", "/api/channels", map[string]any{"name": "private", "private": true})
	admin.Must(201, "POST", "/api/channels/private/upload/"+filename+"?sha256=", data)
	admin.Must(201, "POST", "/api/channels/private/upload/"+otherName+"?sha256=", other)
	mine, others := blob.Digest(sha256.Sum256(data)), blob.Digest(sha256.Sum256(other))
	sign := func(key grant.Key, g grant.Grant, at time.Time) string {
		t.Helper()
		signer, err := grant.NewSigner(key, func() time.Time { return at })
		if err != nil {
			t.Fatal(err)
		}
		token, err := signer.Sign(g)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	now := time.Now()
	read := grant.Grant{Digest: mine, Methods: grant.Read, Expires: now.Add(time.Minute), Audience: storage.Audience}
	with := func(f func(*grant.Grant)) grant.Grant { g := read; f(&g); return g }
	good := sign(grants, read, now)
	bad := map[string]string{
		"of another blob": sign(grants, with(func(g *grant.Grant) { g.Digest = others }), now), "to write": sign(grants, with(func(g *grant.Grant) { g.Methods = grant.Write }), now),
		"expired": sign(grants, with(func(g *grant.Grant) { g.Expires = now.Add(-time.Hour + time.Minute) }), now.Add(-time.Hour)), "for another plane": sign(grants, with(func(g *grant.Grant) { g.Audience = "other" }), now),
		"by another key": sign(grant.Key{ID: "1", Secret: []byte(strings.Repeat("k", 32))}, read, now), "under another name": sign(grant.Key{ID: "2", Secret: grants.Secret}, read, now), "an upload": sign(grants, grant.Grant{Methods: grant.Write, Expires: now.Add(time.Minute), Audience: storage.Audience}, now),
		"cut": good[:len(good)-2], "longer": good + "A", "empty": "", "an API key": s.AdminKey, "changed": flip(good),
	}
	url := "http://" + s.DataAddr + "/blobs/" + hex.EncodeToString(mine[:])
	anyone := s.Anonymous().In(t)
	ask := func(method, url, token string, body any) int {
		t.Helper()
		return anyone.Send(0, platformtest.Request{Method: method, Path: url, Body: body, Header: http.Header{dataplane.GrantHeader: {token}}}).Status
	}
	if got := ask("GET", url, good, nil); got != 200 {
		t.Fatalf("the good grant, without which nothing here means anything: %d", got)
	}
	tried := 0
	for name, token := range bad {
		for _, method := range []string{"GET", "HEAD", "PUT", "POST", "DELETE"} {
			if name == "to write" && (method == "PUT" || method == "POST") {
				continue // what it is for
			}
			tried++
			if got := ask(method, url, token, data); got < 400 || got >= 500 {
				t.Errorf("%s with a grant that is %s: %d", method, name, got)
			}
		}
		tried++
		if got := ask("GET", url+"?grant="+token, "", nil); got < 400 || got >= 500 {
			t.Errorf("a grant that is %s in the query: %d", name, got)
		}
	}
	for _, path := range []string{"/get/private/noarch/" + filename, "/entrepot/v1/channels/private", "/api/channels/private", "/api/me"} {
		for field, value := range map[string]string{dataplane.GrantHeader: good, "X-Api-Key": good, "Authorization": "Bearer " + good, "Cookie": "entrepot_session=" + good} {
			tried++
			if got := anyone.Send(0, platformtest.Request{Method: "GET", Path: path, Header: http.Header{field: {value}}}).Status; got != 401 && got != 403 {
				t.Errorf("%s with a grant as %s: %d", path, field, got)
			}
		}
		tried++
		if got := anyone.Do("GET", "/t/"+good+path, nil).Status; got != 401 && got != 403 {
			t.Errorf("%s with a grant in the path: %d", path, got)
		}
	}
	whole(t, s)
	t.Logf("%d grants, %d tries", len(bad), tried)
}

// flip changes one letter in the middle.
func flip(token string) string {
	b := []byte(token)
	if i := len(b) / 2; b[i] == 'A' {
		b[i] = 'B'
	} else {
		b[i] = 'A'
	}
	return string(b)
}

// TestWhichCredentialCounts: of several credentials one decides, and a dead one never makes way for another.
func TestWhichCredentialCounts(t *testing.T) {
	s := platformtest.Start(t)
	admin := s.Admin().In(t)
	bob, dave := s.User("bob").Key, s.User("dave").Key
	cookie := s.Login("carol")
	made := func() string {
		var key struct{ Key string }
		s.User("bob").In(t).Must(201, "POST", "/api/api-keys", map[string]any{"description": "x", "roles": []any{}}).JSON(&key)
		return key.Key
	}
	revoked, expired, deleted := made(), made(), made()
	s.User("bob").In(t).Must(200, "DELETE", "/api/api-keys/"+revoked, nil)
	conn, err := pgx.Connect(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "UPDATE identity.api_keys SET expire_time = now() - interval '1 hour' WHERE id = $1", expired[:authn.KeyIDLength]); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "DELETE FROM identity.api_keys WHERE id = $1", deleted[:authn.KeyIDLength]); err != nil {
		t.Fatal(err)
	}
	dead := map[string]string{"revoked": revoked, "expired": expired, "deleted": deleted, "unknown": strings.Repeat("z", len(bob)), "short": "x", "an id alone": bob[:authn.KeyIDLength], "an id with another's secret": bob[:authn.KeyIDLength] + dave[authn.KeyIDLength:]}
	me := func(path string, h http.Header) string {
		t.Helper()
		resp := s.Anonymous().In(t).Send(0, platformtest.Request{Method: "GET", Path: path + "/api/me", Header: h})
		if resp.Status != 200 {
			return fmt.Sprint(resp.Status)
		}
		var who struct{ User struct{ Username string } }
		resp.JSON(&who)
		return who.User.Username
	}
	basic := func(key string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte("x:"+key)) }
	tried := 0
	check := func(what, want, path string, h http.Header) {
		t.Helper()
		tried++
		if got := me(path, h); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	check("header before path", "bob", "/t/"+dave, http.Header{"X-Api-Key": {bob}})
	check("header before cookie", "bob", "", http.Header{"X-Api-Key": {bob}, "Cookie": {cookie}})
	check("header before bearer", "bob", "", http.Header{"X-Api-Key": {bob}, "Authorization": {"Bearer " + dave}})
	check("bearer before path", "bob", "/t/"+dave, http.Header{"Authorization": {"Bearer " + bob}})
	check("path before cookie", "dave", "/t/"+dave, http.Header{"Cookie": {cookie}})
	check("cookie alone", "carol", "", http.Header{"Cookie": {cookie}})
	for name, key := range dead {
		for other, h := range map[string]http.Header{"a login": {"Cookie": {cookie}}, "nothing": {}} {
			with := func(field, value string) http.Header {
				c := h.Clone()
				c.Set(field, value)
				return c
			}
			check(name+" in the header, and "+other, "401", "", with("X-Api-Key", key))
			check(name+" as bearer, and "+other, "401", "", with("Authorization", "Bearer "+key))
			check(name+" as password, and "+other, "401", "", with("Authorization", basic(key)))
			check(name+" in the path, and "+other, "401", "/t/"+key, h)
			check(name+" in the header and a good one in the path, and "+other, "401", "/t/"+dave, with("X-Api-Key", key))
		}
	}
	admin.Must(200, "GET", "/api/me", nil)
	whole(t, s)
	t.Logf("%d tries", tried)
}
