package pkgcache

import (
	"errors"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

// object splits a JSON object into its members.
func object(data []byte) (map[string]jsontext.Value, error) {
	fields := map[string]jsontext.Value{}
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	if fields == nil {
		return nil, errors.New("it is null")
	}
	return fields, nil
}

// stamp writes a package's record with the digests that its file really had, whatever the record says: by them alone it
// is found again. Secrets of the location stay out.
func stamp(record []byte, p *Package, sha256, md5 string) ([]byte, error) {
	if len(record) == 0 {
		record = []byte("{}")
	}
	fields, err := object(record)
	if err != nil {
		return nil, err
	}
	for key, v := range map[string]string{"sha256": sha256, "md5": md5, "fn": p.FileName, "url": dist.WithoutSecrets(p.URL)} {
		if v == "" {
			continue
		}
		if fields[key], err = jsontext.AppendQuote(nil, v); err != nil {
			return nil, err
		}
	}
	out, err := json.Marshal(fields, json.Deterministic(true), jsontext.WithIndent("  "))
	return slices.Grow(out, 1), err
}
