package install

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// recordFields returns the keys that an installed package takes from its channel. What the channel wrote counts, key by
// key; where there is only the typed record, as from a lock, it is spelled out. Keys without a value are left out, and
// track_features is one string, as the field's other installer has it.
func recordFields(r *repodata.Record) (map[string]jsontext.Value, error) {
	fields := map[string]jsontext.Value{}
	if len(r.Raw) > 0 {
		if err := json.Unmarshal(r.Raw, &fields); err != nil {
			return nil, fmt.Errorf("record of %s: %w", r.Name, jsonError(err))
		}
		for _, key := range own {
			delete(fields, key)
		}
	}
	var err error
	set := func(key string, empty bool, v any) {
		if _, ok := fields[key]; ok || empty || err != nil {
			return
		}
		var b []byte
		if b, err = json.Marshal(v, json.Deterministic(true)); err == nil {
			fields[key] = b
		}
	}
	set("name", false, r.Name)
	set("version", false, r.Version)
	set("build", false, r.Build)
	set("build_number", false, r.BuildNumber)
	set("depends", false, slices.Concat([]string{}, r.Depends))
	set("constrains", len(r.Constrains) == 0, r.Constrains)
	set("extra_depends", len(r.ExtraDepends) == 0, r.ExtraDepends)
	set("flags", len(r.Flags) == 0, r.Flags)
	set("subdir", r.Subdir == "", r.Subdir)
	set("noarch", r.NoArch == repodata.NoArchNone, string(r.NoArch))
	set("timestamp", r.Timestamp == 0, r.Timestamp)
	set("indexed_timestamp", r.IndexedTimestamp == 0, r.IndexedTimestamp)
	set("features", r.Features == "", r.Features)
	set("license", r.License == "", r.License)
	set("license_family", r.LicenseFamily == "", r.LicenseFamily)
	set("size", r.Size == 0, r.Size)
	set("md5", r.MD5 == "", r.MD5)
	set("sha256", r.SHA256 == "", r.SHA256)
	set("legacy_bz2_md5", r.LegacyBz2MD5 == "", r.LegacyBz2MD5)
	set("legacy_bz2_size", r.LegacyBz2Size == 0, r.LegacyBz2Size)
	set("python_site_packages_path", r.PythonSitePackagesPath == "", r.PythonSitePackagesPath)
	set("arch", r.Arch == "", r.Arch)
	set("platform", r.Platform == "", r.Platform)
	set("run_exports", len(r.RunExports) == 0, jsontext.Value(r.RunExports))
	if err != nil {
		return nil, fmt.Errorf("record of %s: %w", r.Name, jsonError(err))
	}
	delete(fields, "track_features")
	set("track_features", len(r.TrackFeatures) == 0, strings.Join(r.TrackFeatures, " "))
	for key, v := range fields {
		switch v.Kind() {
		case 'n':
			delete(fields, key)
		case '[', '{':
			if err := v.Canonicalize(); err != nil {
				return nil, fmt.Errorf("record of %s: %s: %w", r.Name, key, jsonError(err))
			}
			if len(v) == 2 && v[0] == '[' && !keptEmpty[key] || len(v) == 2 && key == "extra_depends" {
				delete(fields, key)
				continue
			}
			fields[key] = v
		}
	}
	if v := fields["noarch"]; string(v) == "false" || string(v) == `""` {
		delete(fields, "noarch")
	}
	if _, ok := fields["depends"]; !ok {
		fields["depends"] = jsontext.Value("[]")
	}
	return fields, err
}
