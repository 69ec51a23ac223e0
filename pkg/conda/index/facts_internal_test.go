package index

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

func TestFactsFollowFromPaths(t *testing.T) {
	for path, want := range map[archive.PathEntry]repodata.PackageFacts{
		{Path: "etc/conda/activate.d/x.sh"}:                                         {ActivateD: true},
		{Path: "etc/conda/deactivate.d/x.sh"}:                                       {DeactivateD: true},
		{Path: "lib/libx.so", Placeholder: "/opt/p", Mode: archive.ModeBinary}:      {BinaryPrefix: true},
		{Path: "bin/x", Placeholder: "/opt/p", Mode: archive.ModeText}:              {TextPrefix: true},
		{Path: "bin/.x-pre-link.sh"}:                                                {PreLink: true},
		{Path: "bin/.x-post-link.sh"}:                                               {PostLink: true},
		{Path: "Scripts/.x-pre-unlink.bat"}:                                         {PreUnlink: true},
		{Path: "bin/.other-post-link.sh"}:                                           {},
		{Path: "share/etc/conda/activate.d/x.sh"}:                                   {},
		{Path: "bin/.x-post-link.sh.txt"}:                                           {},
		{Path: "bin/.x-post-link.sh", Placeholder: "/o", Mode: archive.ModeText}:    {PostLink: true, TextPrefix: true},
		{Path: "etc/conda/activate.d/x", Placeholder: "/o", Mode: archive.ModeText}: {ActivateD: true, TextPrefix: true},
	} {
		var got repodata.PackageFacts
		pathFacts(&got, "x", path)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s:\n%s", path.Path, d)
		}
	}
}
