package fetch_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http/httptest"

	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
)

// A small file, checked against the digest that an index announces.
func ExampleRemote_DownloadTo() {
	file := []byte("{}\n")
	upstream := httptest.NewServer(fetchtest.Static(map[string][]byte{"conda-forge/noarch/repodata.json": file}))
	defer upstream.Close()

	client, err := fetch.New(fetch.Config{Egress: fetch.Policy{AllowLoopback: true}, UserAgent: "entrepot/1.0 (+https://example.org/contact)"})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	remote, err := client.Remote(fetch.RemoteConfig{Name: "conda-forge", Kind: "conda", BaseURL: upstream.URL + "/conda-forge"})
	if err != nil {
		panic(err)
	}
	defer remote.Close()

	want := fetch.DownloadRequest{Path: "noarch/repodata.json", Size: 3, SHA256: fmt.Sprintf("%x", sha256.Sum256(file))}
	res, err := remote.DownloadTo(context.Background(), want, func(r io.Reader) error {
		b, err := io.ReadAll(r)
		fmt.Printf("%q\n", b)
		return err
	})
	fmt.Println(res.Size, res.Attempts, err)
	// Output:
	// "{}\n"
	// 3 1 <nil>
}
