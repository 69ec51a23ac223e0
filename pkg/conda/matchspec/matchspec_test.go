package matchspec

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// listForms are specs with a [list], which CEP 44 and 45 allow and the default parser behind the vectors refuses.
var listForms = map[string]string{
	"foo[extras=[bar]]":                "foo[extras=['bar']]",
	"foobar[extras=['science', plot]]": "foobar[extras=['science','plot']]",
	"pkg[extras=[a, b, c]]":            "pkg[extras=['a','b','c']]",
	"pkg[extras=[b,a]]":                "pkg[extras=['b','a']]",
	"pkg[flags=[cpu, gpu:cuda]]":       "pkg[flags=['cpu','gpu:cuda']]",
	"pkg[flags=[gpu,cpu]]":             "pkg[flags=['gpu','cpu']]",
}

// condaNames are the members of conda's default multichannel, which it prints by the collective name.
var condaNames = Options{ChannelNames: map[string]string{"pkgs/main": "defaults", "pkgs/r": "defaults"}}

func TestRealSpecsPrintAsCondaDoes(t *testing.T) {
	path := filepath.Join("..", "..", "..", "..", "shared", "data", "04-vectors", "matchspec_canonical.conda-26.7.1.tsv.zst")
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("no vectors at %s; the embedded table still runs", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dec, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	rows, wrong, lists := 0, 0, 0
	sc := bufio.NewScanner(dec)
	for sc.Scan() {
		in, want, _ := strings.Cut(sc.Text(), "\t")
		if list, ok := listForms[in]; ok {
			want = list
			lists++
		}
		rows++
		if got := outcome(in, condaNames); got != want && !(strings.HasPrefix(want, "!ERR") && got == "!ERR") {
			if wrong++; wrong <= 40 {
				t.Errorf("%q: got %q, want %q", in, got, want)
			}
		}
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	if wrong > 0 || rows < 19_000 || lists != len(listForms) {
		t.Errorf("%d of %d rows wrong, %d list forms", wrong, rows, lists)
	}
}

func outcome(in string, opts Options) string {
	s, err := Parse(in, opts)
	if err != nil {
		return "!ERR"
	}
	return s.Canonical()
}
