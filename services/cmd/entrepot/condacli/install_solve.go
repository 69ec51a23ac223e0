package condacli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/solve"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
)

// solved finds the packages for specs: what is installed stays in the environment, and as it is where that is possible.
func (a *app) solved(ctx context.Context, r *installRequest, have []*install.Record, out, errs io.Writer) ([]install.Package, map[string][]string, error) {
	channels, err := r.resolve(a)
	if err != nil {
		return nil, nil, err
	}
	machine, err := a.machine(r.platform, r.machine)
	if err != nil {
		return nil, nil, err
	}
	specs, err := parseSpecs("SPEC", r.specs)
	if err != nil {
		return nil, nil, err
	}
	texts := openly(r.specs)
	asked := map[string][]string{}
	for i := range specs {
		if name, ok := specs[i].ExactName(); ok {
			asked[name] = append(asked[name], texts[i])
		}
	}
	req := solve.Request{Specs: specs, Virtual: machine}
	for _, rec := range have {
		texts := rec.RequestedSpecs
		if asked[rec.Name] != nil || len(texts) == 0 {
			texts = []string{rec.Name} // it must stay, in whatever version fits
		}
		for _, text := range texts {
			spec, err := matchspec.Parse(text, matchspec.Options{})
			if err != nil { // of another tool, or of long ago
				if spec, err = matchspec.Parse(rec.Name, matchspec.Options{}); err != nil {
					return nil, nil, fault.New(fault.Precondition, "%s: %w", rec.MetaName(), err)
				}
			}
			req.Specs = append(req.Specs, spec)
		}
		req.Favoured = append(req.Favoured, &solve.Package{Record: rec.Record, Channel: rec.Channel, FileName: rec.FileName})
	}
	ix, err := a.index(ctx, &r.channelFlags, channels, machine, rootNames(req.Specs), errs)
	if err != nil {
		return nil, nil, err
	}
	start := a.now()
	sol, err := ix.Solve(ctx, req)
	var no *solve.UnsolvableError
	if errors.As(err, &no) && r.asJSON {
		ans, err := answerOf(nil, no, float64(a.now().Sub(start).Microseconds())/1000)
		if err == nil {
			err = writeJSON(out, ans, "  ")
		}
		return nil, nil, cmp.Or(err, error(negative{}))
	}
	if errors.As(err, &no) {
		fmt.Fprintln(errs, no)
		return nil, nil, negative{}
	}
	if err != nil {
		return nil, nil, err
	}
	var want []install.Package
	for _, p := range sol.Packages {
		if local(p.Location()) && !local(p.Channel) {
			return nil, nil, fault.New(fault.Precondition, "%s: %s, which is read over a network, says that %s lies on this machine", p.Name, fetch.Redact(p.Channel), p.FileName)
		}
		want = append(want, install.Package{Record: p.Record, FileName: p.FileName, URL: p.Location(), Channel: slash(p.Channel)})
	}
	if r.quiet {
		return want, asked, nil
	}
	fmt.Fprintf(errs, "%d packages for %s\n", len(want), r.platform)
	return want, asked, nil
}

// local reports whether a location is on this machine.
func local(location string) bool {
	scheme, _, ok := strings.Cut(location, ":")
	return !ok || strings.EqualFold(scheme, "file")
}

// slash ends a channel's URL as records have it.
func slash(channel string) string {
	if channel == "" || strings.HasSuffix(channel, "/") {
		return channel
	}
	return channel + "/"
}
