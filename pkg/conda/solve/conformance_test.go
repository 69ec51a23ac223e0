package solve

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// cause is why an answer is not the oracle's.
type cause string

const (
	// byFileName: two records are equal in every key of the order but the last, the place in the repodata. rattler 0.3.5
	// sorts all records of a repodata by name with an unstable sort before it looks at them, which shuffles equals. Given
	// the same records in an order in which that sort has nothing to do, it gives our answer.
	byFileName cause = "key 7"
	// bySharing: under [Shared] the search meets conflicts in the order of rattler with resolvo 0.12, which py-rattler
	// 0.28 has and rattler 0.3.5 has not.
	bySharing cause = "shared encoding"
)

// differences are the problems in which we do not choose the very records of rattler 0.3.5. They are listed in
// docs/conda-conformance.md, too.
var differences = map[string]cause{
	"python=3.10 scipy=1.7.*": byFileName,
	"cachy tmux libapriconv bullet-cpp blessed python-engineio openssl perl-exporter pulseaudio-client efficientnet-pytorch": byFileName,
	"gnutls libgz-transport13 xgboost intel-media-driver libgdal-grib jupyter pytorch-lightning seawater jsonpath-ng":        byFileName,
	"rapidfuzz pulseaudio-client pyprojroot pytorch libattr trollsift multiprocess r-collections yamale":                     bySharing,
	"connectome-workbench-cli pytest-run-parallel astropy liac-arff pytest-md retry":                                         bySharing,
}

func (c cause) under(e Encoding) bool { return c == byFileName || e == Shared }

// String names an encoding in a test's output.
func (e Encoding) String() string { return [...]string{"auto", "plain", "shared"}[e] }

// explained checks that a difference is a known one and that its cause is true; it returns what is not.
func explained(repos []Repo, key string, e Encoding, sol *Solution, theirs []string) string {
	why, known := differences[key]
	if !known || !why.under(e) {
		return "a new difference"
	}
	if why == bySharing {
		return ""
	}
	ours, other := except(files(sol), theirs), except(theirs, files(sol))
	if len(ours) != 1 || len(other) != 1 {
		return "more than one record differs"
	}
	return lastKeyDecides(repos, ours[0], other[0])
}

// lastKeyDecides checks that two records of one name are equal in the keys 1 to 6 and that the first one's file name
// comes first. It looks at the records alone: equal dependencies are equal in key 5 whatever they allow.
func lastKeyDecides(repos []Repo, ours, theirs string) string {
	find := func(path string) *Package {
		for _, r := range repos {
			for _, p := range r.Packages {
				if p.Subdir+"/"+p.FileName == path {
					return p
				}
			}
		}
		return nil
	}
	a, b := find(ours), find(theirs)
	switch {
	case a == nil || b == nil:
		return "a record is in no repo"
	case a.Name != b.Name || a.Version != b.Version || a.Subdir != b.Subdir:
		return "name, version or subdir differ"
	case len(a.TrackFeatures)+len(b.TrackFeatures) > 0:
		return "there are track_features"
	case a.BuildNumber != b.BuildNumber:
		return fmt.Sprintf("the build numbers are %d and %d", a.BuildNumber, b.BuildNumber)
	case !slices.Equal(slices.Sorted(slices.Values(a.Depends)), slices.Sorted(slices.Values(b.Depends))):
		return "the dependencies differ"
	case a.Timestamp != b.Timestamp:
		return "the timestamps differ"
	case a.FileName > b.FileName:
		return "theirs comes first"
	}
	return ""
}

// TestEveryDifferenceIsInTheBook keeps docs/conda-conformance.md and the tests together.
func TestEveryDifferenceIsInTheBook(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "conda-conformance.md"))
	if err != nil {
		t.Fatal(err)
	}
	listed := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		key := strings.Trim(strings.TrimSpace(cells[1]), "`")
		why, ok := differences[key]
		if !ok {
			continue
		}
		listed++
		if !strings.Contains(cells[2], string(why)) {
			t.Errorf("%s: the page says %q, the test %q", key, cells[2], why)
		}
	}
	if listed != len(differences) {
		t.Errorf("the page lists %d of %d differences", listed, len(differences))
	}
}
