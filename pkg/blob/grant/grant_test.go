package grant_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/grant"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

var (
	epoch  = time.Unix(1_800_000_000, 0)
	digest = blob.Sum([]byte("content"))
	oldKey = grant.Key{ID: "old", Secret: []byte(strings.Repeat("o", 32))}
	newKey = grant.Key{ID: "new", Secret: []byte(strings.Repeat("n", 32))}
)

type bundle struct {
	now      time.Time
	signer   *grant.Signer
	verifier *grant.Verifier
}

func setup(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{now: epoch}
	clock := func() time.Time { return b.now }
	var err error
	if b.signer, err = grant.NewSigner(oldKey, clock); err != nil {
		t.Fatal(err)
	}
	if b.verifier, err = grant.NewVerifier("data", clock, oldKey); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bundle) sign(t *testing.T, g grant.Grant) string {
	t.Helper()
	token, err := b.signer.Sign(g)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func readGrant() grant.Grant {
	return grant.Grant{Digest: digest, Methods: grant.Read, Expires: epoch.Add(time.Minute), Audience: "data"}
}

func TestGrantsRoundTrip(t *testing.T) {
	b := setup(t)
	upload := grant.Grant{Methods: grant.Write, Expires: epoch.Add(time.Hour), MaxSize: 5 << 30, Audience: "data"}
	both := readGrant()
	both.Methods |= grant.Write
	for _, g := range []grant.Grant{readGrant(), upload, both} {
		got, err := b.verifier.Verify(b.sign(t, g))
		if diff := cmp.Diff(g, got); err != nil || diff != "" {
			t.Errorf("error %v (-want +got)\n%s", err, diff)
		}
	}
}

func TestGrantsExpire(t *testing.T) {
	b := setup(t)
	token := b.sign(t, readGrant())
	b.now = epoch.Add(time.Minute + grant.Skew)
	if _, err := b.verifier.Verify(token); err != nil {
		t.Errorf("within the skew: %v", err)
	}
	b.now = b.now.Add(time.Second)
	if _, err := b.verifier.Verify(token); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("after it: error %v", err)
	}
}

func TestKeysRotate(t *testing.T) {
	b := setup(t)
	old := b.sign(t, readGrant())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(b.verifier.SetKeys(newKey, oldKey))
	must(b.signer.SetKey(newKey))
	fresh := b.sign(t, readGrant())
	for _, token := range []string{old, fresh} {
		if _, err := b.verifier.Verify(token); err != nil {
			t.Errorf("while both keys hold: %v", err)
		}
	}
	must(b.verifier.SetKeys(newKey))
	if _, err := b.verifier.Verify(old); err == nil {
		t.Error("a dropped key still opens")
	}
	must(b.verifier.SetKeys())
	if _, err := b.verifier.Verify(fresh); err == nil {
		t.Error("a verifier without keys opens")
	}
}

func TestForgedGrantsAreRefused(t *testing.T) {
	b := setup(t)
	good := b.sign(t, readGrant())
	body64, mac64, _ := strings.Cut(good, ".")
	enc := base64.RawURLEncoding
	body, _ := enc.DecodeString(body64)
	forge := func(body string, secret []byte) string {
		h := hmac.New(sha256.New, secret)
		h.Write([]byte("entrepot-grant-v1\n" + body))
		return enc.EncodeToString([]byte(body)) + "." + enc.EncodeToString(h.Sum(nil))
	}
	noContext := hmac.New(sha256.New, oldKey.Secret)
	noContext.Write(body)
	elsewhere := readGrant()
	elsewhere.Audience = "other"
	for name, token := range map[string]string{
		"empty":                  "",
		"dot":                    ".",
		"no signature":           body64,
		"empty signature":        body64 + ".",
		"truncated signature":    good[:len(good)-2],
		"padded":                 good + "=",
		"trailing dot":           good + ".",
		"newline":                good + "\n",
		"other payload":          enc.EncodeToString([]byte(strings.Replace(string(body), `"m":"r"`, `"m":"rw"`, 1))) + "." + mac64,
		"foreign key":            forge(string(body), newKey.Secret),
		"another context":        body64 + "." + enc.EncodeToString(noContext.Sum(nil)),
		"key id of another":      forge(strings.Replace(string(body), `"k":"old"`, `"k":"new"`, 1), oldKey.Secret),
		"other audience":         b.sign(t, elsewhere),
		"no method":              forge(fmt.Sprintf(`{"k":"old","d":"%s","x":%d,"a":"data"}`, digest, epoch.Unix()), oldKey.Secret),
		"digest with a path":     forge(fmt.Sprintf(`{"k":"old","d":"../../etc","m":"r","x":%d,"a":"data"}`, epoch.Unix()), oldKey.Secret),
		"not JSON":               forge(`old`, oldKey.Secret),
		"a megabyte":             strings.Repeat("A", 1<<20) + "." + mac64,
		"standard base64":        strings.ReplaceAll(good, "_", "/") + "+",
		"signature of no length": body64 + "." + enc.EncodeToString(nil),
	} {
		if g, err := b.verifier.Verify(token); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("%s: %+v, error %v", name, g, err)
		}
	}
	if _, err := b.verifier.Verify(good); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func TestGrantAllowsOnlyWhatItSays(t *testing.T) {
	other := blob.Sum([]byte("other"))
	read := grant.Grant{Digest: digest, Methods: grant.Read}
	upload := grant.Grant{Methods: grant.Write}
	bound := grant.Grant{Digest: digest, Methods: grant.Write}
	for name, c := range map[string]struct {
		g    grant.Grant
		m    grant.Methods
		d    blob.Digest
		want bool
	}{
		"read its blob":                {read, grant.Read, digest, true},
		"read another":                 {read, grant.Read, other, false},
		"write with a read grant":      {read, grant.Write, digest, false},
		"upload anything":              {upload, grant.Write, blob.Digest{}, true},
		"read with an upload grant":    {upload, grant.Read, digest, false},
		"read the zero digest":         {upload, grant.Read, blob.Digest{}, false},
		"upload what is bound":         {bound, grant.Write, digest, true},
		"upload something else":        {bound, grant.Write, other, false},
		"a bound upload, yet unhashed": {bound, grant.Write, blob.Digest{}, true},
		"nothing with nothing":         {grant.Grant{}, grant.Read, blob.Digest{}, false},
	} {
		if err := c.g.Allows(c.m, c.d); (err == nil) != c.want || err != nil && !fault.Is(err, fault.Denied) {
			t.Errorf("%s: error %v, want allowed %t", name, err, c.want)
		}
	}
}

func TestSignRefusesMistakes(t *testing.T) {
	b := setup(t)
	for name, change := range map[string]func(*grant.Grant){
		"no method":       func(g *grant.Grant) { g.Methods = 0 },
		"unknown method":  func(g *grant.Grant) { g.Methods = 8 },
		"read everything": func(g *grant.Grant) { g.Digest = blob.Digest{} },
		"expired":         func(g *grant.Grant) { g.Expires = epoch },
		"for ever":        func(g *grant.Grant) { g.Expires = epoch.Add(grant.MaxTTL + time.Second) },
		"negative size":   func(g *grant.Grant) { g.MaxSize = -1 },
		"a novel":         func(g *grant.Grant) { g.Audience = strings.Repeat("a", 2000) },
	} {
		g := readGrant()
		change(&g)
		if token, err := b.signer.Sign(g); err == nil {
			t.Errorf("%s: signed %s", name, token)
		}
	}
	if _, err := grant.NewSigner(grant.Key{ID: "short", Secret: []byte("short")}, nil); err == nil {
		t.Error("a short key was taken")
	}
	if s := fmt.Sprintf("%v %+v %#v", oldKey, oldKey, oldKey); strings.Contains(s, "ooo") {
		t.Errorf("printing a key shows it: %s", s)
	}
}

func BenchmarkVerify(b *testing.B) {
	v, _ := grant.NewVerifier("data", nil, oldKey, newKey)
	s, _ := grant.NewSigner(oldKey, nil)
	g := readGrant()
	g.Expires = time.Now().Add(time.Hour)
	token, err := s.Sign(g)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := v.Verify(token); err != nil {
			b.Fatal(err)
		}
	}
}
