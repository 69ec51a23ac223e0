package condacli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/solve"
	"github.com/entrepot-dev/entrepot/pkg/conda/virtual"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// problem is what is asked: by flags and arguments, or by a line of --batch.
type problem struct {
	Specs []string `json:"specs"`
	// File is an environment.yml whose dependencies are asked for, too; its channels are not.
	File        string   `json:"file"`
	Constraints []string `json:"constraints"`
	// Virtual, if given, is the whole set of virtual packages.
	Virtual      []string `json:"virtual_packages"`
	Priority     string   `json:"channel_priority"`
	Strategy     string   `json:"strategy"`
	Encoding     string   `json:"encoding"`
	ExcludeNewer string   `json:"exclude_newer"`
	TimeoutMS    int64    `json:"timeout_ms"`
}

// batch answers a problem a line. All of the channels is read, once: the second question usually is about other names.
func (s *solver) batch(ctx context.Context, in io.Reader, out io.Writer) error {
	list, load, err := s.load(ctx, nil)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	sc := bufio.NewScanner(in)
	sc.Buffer(make([]byte, 64<<10), 16<<20)
	for sc.Scan() {
		if strings.TrimSpace(sc.Text()) == "" {
			continue
		}
		var line any
		if all, err := s.line(ctx, list, sc.Bytes()); err != nil {
			line = &answer{Status: failed, Error: err.Error(), Records: []record{}, Timings: timings{Load: load}}
		} else {
			for _, ans := range all.Platforms {
				ans.Timings.Load = load
			}
			line = all.plain()
		}
		load = 0
		if err := errors.Join(writeJSON(w, line, ""), w.Flush()); err != nil { // whoever asks waits for the answer
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return sc.Err()
}

// line answers one line of a batch; what is wrong with it is its own affair.
func (s *solver) line(ctx context.Context, list *solve.Platforms, data []byte) (*answers, error) {
	p := s.defaults
	p.Specs = nil
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return nil, err
	}
	return s.all(ctx, list, p)
}

// request turns a problem into what the solver takes for a platform.
func (s *solver) request(p problem, platform string) (*solve.Request, error) {
	req := &solve.Request{Virtual: s.machines[platform], Limits: solve.Limits{Time: time.Duration(p.TimeoutMS) * time.Millisecond}}
	var err error
	if req.Specs, err = parseSpecs("SPEC", p.Specs); err != nil {
		return nil, err
	}
	if p.File != "" {
		env, err := readEnvironment(p.File)
		if err != nil {
			return nil, err
		}
		req.Specs = append(req.Specs, env.Specs(platform)...)
	}
	if req.Constraints, err = parseSpecs("constraint", p.Constraints); err != nil {
		return nil, err
	}
	if p.Virtual != nil {
		req.Virtual = nil
		for _, text := range p.Virtual {
			v, err := virtual.Parse(text)
			if err != nil {
				return nil, fault.Field("virtual_packages", "virtual_packages: %v", err)
			}
			req.Virtual = append(req.Virtual, v)
		}
	}
	var ok bool
	priorities := map[string]solve.ChannelPriority{"": solve.Strict, "strict": solve.Strict, "flexible": solve.Flexible, "disabled": solve.Disabled}
	if req.Priority, ok = priorities[p.Priority]; !ok {
		return nil, fault.Field("channel_priority", "channel priority must be strict, flexible or disabled, not %q", p.Priority)
	}
	strategies := map[string]solve.Strategy{"": solve.Highest, "highest": solve.Highest, "lowest": solve.Lowest, "lowest-direct": solve.LowestDirect}
	if req.Strategy, ok = strategies[p.Strategy]; !ok {
		return nil, fault.Field("strategy", "strategy must be highest, lowest or lowest-direct, not %q", p.Strategy)
	}
	encodings := map[string]solve.Encoding{"": solve.Auto, "auto": solve.Auto, "plain": solve.Plain, "shared": solve.Shared}
	if req.Encoding, ok = encodings[p.Encoding]; !ok {
		return nil, fault.Field("encoding", "encoding must be auto, plain or shared, not %q", p.Encoding)
	}
	if p.ExcludeNewer != "" {
		if req.Newer.Than, err = parseTime(p.ExcludeNewer); err != nil {
			return nil, fault.Field("exclude_newer", "exclude-newer: %q is neither an RFC 3339 time nor a date", p.ExcludeNewer)
		}
	}
	return req, nil
}

func parseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		if t, err = time.Parse(time.DateOnly, text); err == nil {
			t = t.AddDate(0, 0, 1) // all of that day
		}
	}
	return t, err
}

func parseSpecs(what string, texts []string) ([]matchspec.Spec, error) {
	list := make([]matchspec.Spec, 0, len(texts))
	for _, text := range texts {
		spec, err := matchspec.Parse(text, matchspec.Options{})
		if err != nil {
			return nil, fault.New(fault.Invalid, "%s: %w", what, err)
		}
		list = append(list, spec)
	}
	return list, nil
}
