package repodata

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
)

func channelDataOf(t testing.TB, subdirs []string, files ...ChannelFile) string {
	t.Helper()
	var c ChannelData
	for _, s := range subdirs {
		c.AddSubdir(s)
	}
	for _, f := range files {
		c.Add(f)
	}
	var out bytes.Buffer
	if err := c.Write(&out); err != nil {
		t.Fatal(err)
	}
	if !json.Valid(out.Bytes()) {
		t.Fatalf("no JSON: %s", out.Bytes())
	}
	return out.String()
}

func someFiles() []ChannelFile {
	return []ChannelFile{
		{
			Name: "zlib", Version: "1.9", Subdir: "linux-64", Timestamp: 1_700_000_999_500, License: "Old", RunExports: []byte(`{"weak":["zlib 1.9"]}`),
			Facts: &PackageFacts{Summary: "old", Home: "https://old", PostLink: true, BinaryPrefix: true},
		},
		{
			Name: "zlib", Version: "1.10", BuildNumber: 1, Subdir: "win-64", Timestamp: 1_600_000_000_000, License: "Zlib", RunExports: []byte(`["zlib 1.10"]`),
			Facts: &PackageFacts{Summary: "new <&>", ActivateD: true},
		},
		{Name: "zlib", Version: "1.10", Subdir: "win-64", License: "Zlib", RunExports: []byte(`["lower build"]`)},
		{Name: "zlib", Version: "1.8", Subdir: "win-64", License: "Older", RunExports: []byte(`{}`)},
		{Name: "alone", Version: "odd$", Subdir: "linux-64"},
	}
}

func TestChannelDataIsOfTheNewest(t *testing.T) {
	want := `{"channeldata_version":1,"packages":{` +
		`"alone":{"activate.d":false,"binary_prefix":false,"deactivate.d":false,"description":null,"dev_url":null,"doc_url":null,"home":null,` +
		`"license":null,"post_link":false,"pre_link":false,"pre_unlink":false,"run_exports":{},"source_url":null,"subdirs":["linux-64"],` +
		`"summary":null,"text_prefix":false,"timestamp":0,"version":"odd$"},` +
		`"zlib":{"activate.d":true,"binary_prefix":true,"deactivate.d":false,"description":null,"dev_url":null,"doc_url":null,"home":null,` +
		`"license":"Zlib","post_link":true,"pre_link":false,"pre_unlink":false,` +
		`"run_exports":{"1.10":{"weak":["zlib 1.10"]},"1.9":{"weak":["zlib 1.9"]}},"source_url":null,"subdirs":["linux-64","win-64"],` +
		`"summary":"new <&>","text_prefix":false,"timestamp":1700000999,"version":"1.10"}},"subdirs":["linux-64","noarch","win-64"]}`
	diff(t, want, channelDataOf(t, []string{"noarch"}, someFiles()...))
	diff(t, `{"channeldata_version":1,"packages":{},"subdirs":[]}`, channelDataOf(t, nil))
}

func TestChannelDataDoesNotDependOnTheOrder(t *testing.T) {
	files := someFiles()
	for i := range 20 {
		files = append(files, ChannelFile{
			Name: "many", Version: fmt.Sprintf("1.%d", i%7), BuildNumber: uint64(i), Subdir: "noarch", Timestamp: int64(i) * 1000,
			License: fmt.Sprint(i), Facts: &PackageFacts{Summary: fmt.Sprint(i)}, RunExports: fmt.Appendf(nil, `["many %d"]`, i),
		})
	}
	want := channelDataOf(t, nil, files...)
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		rng.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
		diff(t, want, channelDataOf(t, nil, files...))
	}
}

func TestChannelDataPassesOverWhatIsNoJSON(t *testing.T) {
	got := channelDataOf(t, nil, ChannelFile{Name: "a", Version: "1", Subdir: "noarch", RunExports: []byte(`{"weak":`), Facts: &PackageFacts{Summary: "\xff"}})
	if !bytes.Contains([]byte(got), []byte(`"run_exports":{}`)) || !bytes.Contains([]byte(got), []byte("\"summary\":\"\uFFFD\"")) {
		t.Error(got)
	}
}
