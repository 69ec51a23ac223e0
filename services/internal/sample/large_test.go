package sample

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

func TestALargeUpstreamServesWhatItsIndexPromises(t *testing.T) {
	l, err := ServeLarge(100, 7)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	fetch := func(path, etag string) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("If-None-Match", etag)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, data
	}
	records := func(zst []byte) map[string]repodata.Record {
		t.Helper()
		dec, err := repodata.NewDecoder(bytes.NewReader(zst), repodata.Zstd, repodata.DecodeLimits{})
		if err != nil {
			t.Fatal(err)
		}
		defer dec.Close()
		out := map[string]repodata.Record{}
		for e, err := range repodata.Records(dec, repodata.ReadOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			if out[e.Key], err = repodata.ParseRecord(bytes.Clone(e.Raw)); err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	const index = "/linux-64/repodata.json.zst"
	first, zst := fetch(index, "")
	if resp, _ := fetch(index, first.Header.Get("ETag")); resp.StatusCode != http.StatusNotModified || l.NotModified() != 1 {
		t.Errorf("a known index was answered %s", resp.Status)
	}
	if err := l.Repack(); err != nil {
		t.Fatal(err)
	}
	second, repacked := fetch(index, first.Header.Get("ETag"))
	if second.StatusCode != http.StatusOK || bytes.Equal(zst, repacked) || len(records(zst)) != len(records(repacked)) {
		t.Errorf("%s: the repacked index has the same bytes, or other records", second.Status)
	}
	if err := l.Add(5); err != nil {
		t.Fatal(err)
	}
	l.Forget(true)
	resp, zst := fetch(index, second.Header.Get("ETag"))
	all := records(zst)
	if resp.StatusCode != http.StatusOK || len(all) != 105 || l.Len() != 105 {
		t.Fatalf("%s, %d records", resp.Status, len(all))
	}
	for filename, r := range all {
		_, data := fetch("/linux-64/"+filename, "")
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != r.SHA256 || uint64(len(data)) != r.Size {
			t.Fatalf("%s is not what its record says", filename)
		}
		if _, err := archive.Inspect(t.Context(), bytes.NewReader(data), int64(len(data)), filename, archive.Limits{}, archive.Full(), archive.Subdir("linux-64")); err != nil {
			t.Fatal(err)
		}
	}
	if l.Requests() != 105 || l.Downloading() <= 0 {
		t.Errorf("%d requests", l.Requests())
	}
}
