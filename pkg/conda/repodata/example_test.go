package repodata_test

import (
	"fmt"
	"os"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// An upstream's index is mirrored: every sound record is stamped with the time it was first listed here, all its other
// bytes stay, and a bad record is left out without harm to the rest.
func Example() {
	upstream := strings.NewReader(`{
	  "info": {"subdir": "noarch"},
	  "packages.conda": {
	    "a-1.0-0.conda": {"name": "a", "version": "1.0", "build": "0", "vendor_key": 1.50},
	    "../b-1.0-0.conda": {"name": "b", "version": "1.0", "build": "0"}
	  }
	}`)
	w := repodata.NewWriter(os.Stdout, repodata.Info{Subdir: "noarch"})
	_, err := repodata.Read(upstream, repodata.ReadOptions{
		Record: func(b repodata.Bucket, key string, raw []byte) error {
			stamped, err := repodata.SetKey(raw, "indexed_timestamp", []byte("1795000000000"))
			if err != nil {
				return err
			}
			return w.Record(b, key, stamped)
		},
		Problem: func(e *repodata.Error) error {
			fmt.Println("left out:", e.Path)
			return nil
		},
	})
	if err == nil {
		err = w.Close()
	}
	fmt.Println()
	fmt.Println(err)
	// Output:
	// left out: /packages.conda/..~1b-1.0-0.conda
	// {"info":{"subdir":"noarch"},"packages":{},"packages.conda":{"a-1.0-0.conda":{"name": "a", "version": "1.0", "build": "0", "vendor_key": 1.50,"indexed_timestamp":1795000000000}},"removed":[],"repodata_version":1}
	// <nil>
}
