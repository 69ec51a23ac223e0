package plane

import (
	"bytes"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
)

func TestAFileIsInDoubtIfTheIndexAnnouncesAnother(t *testing.T) {
	sha, md5 := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 16)
	blobs, b := &blobtest.Memory{}, &factsBuilder{}
	b.add("both", fact{sha256: sha, md5: md5})
	b.add("sha256", fact{sha256: sha})
	b.add("md5", fact{md5: md5})
	b.add("neither", fact{})
	info, err := b.put(t.Context(), blobs)
	if err != nil {
		t.Fatal(err)
	}
	index, err := openFacts(t.Context(), blobs, info.Digest[:])
	if err != nil {
		t.Fatal(err)
	}
	defer index.Close()
	for _, c := range []struct {
		name    string
		want    []byte
		differs bool
	}{
		{"both", sha, false},
		{"both", md5, false},
		{"both", nil, true},
		{"both", md5[:15], true},
		{"sha256", sha, false},
		{"sha256", md5, true},
		{"sha256", nil, true},
		{"md5", md5, false},
		{"md5", sha, true},
		{"md5", nil, true}, // nothing vouched for it when it was fetched
		{"neither", nil, false},
		{"neither", sha, true},
		{"unlisted", nil, false},
		{"unlisted", sha, false},
	} {
		if got, err := announcedElse(index, c.name, c.want); got != c.differs || err != nil {
			t.Errorf("%s as %x: %v, %v", c.name, c.want, got, err)
		}
	}
}
