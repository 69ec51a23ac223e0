package edgetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

// job is a job with all its events; the id of the n-th is 1-n.
type job struct {
	proto  *jobsv1.Job
	events []*jobsv1.JobEvent
}

func (s *Server) job(id string) (*job, error) {
	for _, j := range s.jobs {
		if id == j.proto.GetId() || id == strconv.FormatInt(j.proto.GetNumber(), 10) {
			return j, nil
		}
	}
	return nil, fault.New(fault.NotFound, "job %s not found", id)
}

// emit adds an event and wakes the streams; s.mu is held.
func (s *Server) emit(j *job, ev *jobsv1.JobEvent) {
	ev.Id, ev.Time = fmt.Sprintf("1-%d", len(j.events)+1), timestamppb.New(Time)
	j.events = append(j.events, ev)
	s.changed.Broadcast()
}

func (s *Server) setState(j *job, state jobsv1.JobState) {
	j.proto.State = state
	s.emit(j, &jobsv1.JobEvent{Event: &jobsv1.JobEvent_State{State: proto.Clone(j.proto).(*jobsv1.Job)}})
}

func (s *Server) startSync(r *http.Request) (proto.Message, error) {
	name, ok := strings.CutSuffix(r.PathValue("channel"), ":sync")
	if !ok {
		return nil, fault.New(fault.NotFound, "no such path")
	}
	if err := read(r, &syncv1.StartSyncRequest{}); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.channels[strings.ToLower(name)]
	switch {
	case c == nil:
		return nil, fault.New(fault.NotFound, "channel %s not found", name)
	case c.proto.GetMirror() == nil:
		return nil, fault.New(fault.Precondition, "channel %s is not a mirror", name)
	}
	n := int64(len(s.jobs) + 1)
	j := &job{proto: &jobsv1.Job{
		Id: fmt.Sprintf("00000000-0000-0000-0001-%012d", n), Number: n, Kind: "sync.channel", Namespace: "default", Priority: "normal",
		Resource: "channel/" + c.proto.GetName(), Owner: "alice", CreateTime: timestamppb.New(Time), Progress: &jobsv1.Progress{},
	}}
	s.jobs = append(s.jobs, j)
	s.setState(j, jobsv1.JobState_JOB_STATE_QUEUED)
	s.wg.Go(func() { s.runSync(c, j) })
	return proto.Clone(j.proto), nil
}

// runSync mirrors: a file that is not what the index says fails by itself.
func (s *Server) runSync(c *channel, j *job) {
	if s.Hold != nil {
		select {
		case <-s.Hold:
		case <-s.ctx.Done():
			return
		}
	}
	s.mu.Lock()
	if j.proto.GetState() == jobsv1.JobState_JOB_STATE_CANCELLED {
		s.mu.Unlock()
		return
	}
	s.setState(j, jobsv1.JobState_JOB_STATE_RUNNING)
	upstream := c.proto.GetMirror().GetUrl()
	s.mu.Unlock()
	result, err := s.mirror(c, j, upstream)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.JobError != "" {
		err = fmt.Errorf("%s", s.JobError)
	}
	if err != nil {
		j.proto.Error = err.Error()
		s.setState(j, jobsv1.JobState_JOB_STATE_DEAD)
		return
	}
	data, err := json.Marshal(result)
	if err != nil {
		panic(err)
	}
	j.proto.Result = &structpb.Struct{}
	if err := j.proto.Result.UnmarshalJSON(data); err != nil {
		panic(err)
	}
	s.setState(j, jobsv1.JobState_JOB_STATE_SUCCEEDED)
}

type failure struct {
	Path   string `json:"path"`
	Error  string `json:"error"`
	Reason string `json:"reason"`
}

type result struct {
	Revision  int64     `json:"revision"`
	Added     int64     `json:"added"`
	Unchanged int64     `json:"unchanged"`
	Removed   int64     `json:"removed"`
	Failed    int64     `json:"failed"`
	Bytes     int64     `json:"bytes"`
	Failures  []failure `json:"failures"`
	Warnings  []string  `json:"warnings"`
}

func (s *Server) mirror(c *channel, j *job, upstream string) (*result, error) {
	records := map[string][]byte{}
	for _, subdir := range []string{"linux-64", "noarch"} {
		doc, err := s.fetch(upstream + "/" + subdir + "/repodata.json")
		if err != nil {
			return nil, err
		}
		for e, err := range repodata.Records(bytes.NewReader(doc), repodata.ReadOptions{}) {
			if err != nil {
				return nil, err
			}
			records[subdir+"/"+e.Key] = bytes.Clone(e.Raw)
		}
	}
	res := &result{Failures: []failure{}, Warnings: []string{}}
	for i, path := range slices.Sorted(maps.Keys(records)) {
		subdir, filename, _ := strings.Cut(path, "/")
		rec, err := repodata.ParseRecord(records[path])
		if err != nil {
			return nil, err
		}
		data, err := s.fetch(upstream + "/" + subdir + "/" + url.PathEscape(filename))
		if err != nil {
			return nil, err
		}
		d, err := dist.ParseFilename(filename)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		switch have := c.files[path]; {
		case hexSHA(data) != rec.SHA256:
			res.Failed++
			res.Failures = append(res.Failures, failure{path, "the bytes have another SHA-256 than the index says", "DIGEST_MISMATCH"})
			s.emit(j, &jobsv1.JobEvent{Event: &jobsv1.JobEvent_Log{Log: &jobsv1.LogLine{Level: "error", Text: path + " is damaged"}}})
		case have != nil && have.file.GetSha256() == rec.SHA256:
			res.Unchanged++
		default:
			c.put(path, d, data, records[path])
			res.Added++
			res.Bytes += int64(len(data))
		}
		j.proto.Progress = &jobsv1.Progress{Done: int64(i + 1), Total: int64(len(records)), Bytes: res.Bytes, Message: "downloading"}
		s.emit(j, &jobsv1.JobEvent{Event: &jobsv1.JobEvent_Progress{Progress: j.proto.Progress}})
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.proto.Head++
	res.Revision = c.proto.GetHead()
	return res, nil
}

func (s *Server) fetch(u string) ([]byte, error) {
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	req.Close = true // no connection outlives the test
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d", u, resp.StatusCode)
	}
	return io.ReadAll(resp.Body)
}

func (s *Server) syncStatus(r *http.Request) (proto.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.channel(r)
	if err != nil {
		return nil, err
	}
	st := &syncv1.SyncStatus{Channel: c.proto.GetName(), Url: c.proto.GetMirror().GetUrl()}
	for _, j := range s.jobs {
		if j.proto.GetResource() != "channel/"+c.proto.GetName() || j.proto.GetResult() == nil {
			continue
		}
		var res result
		data, err := j.proto.GetResult().MarshalJSON()
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, &res); err != nil {
			return nil, err
		}
		st.Last = &syncv1.SyncResult{Revision: res.Revision, Added: res.Added, Unchanged: res.Unchanged, Failed: res.Failed, Bytes: res.Bytes}
		st.LastTime = timestamppb.New(Time)
		for _, f := range res.Failures {
			st.Last.Failures = append(st.Last.Failures, &syncv1.FailedFile{Path: f.Path, Error: f.Error, Reason: f.Reason})
		}
	}
	return st, nil
}

func (s *Server) listJobs(r *http.Request) (proto.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := r.URL.Query()
	var all []*jobsv1.Job
	for i := len(s.jobs) - 1; i >= 0; i-- {
		j := s.jobs[i].proto
		if k := q.Get("kind"); k != "" && k != j.GetKind() {
			continue
		}
		if res := q.Get("resource"); res != "" && res != j.GetResource() {
			continue
		}
		if states := q["states"]; len(states) > 0 && !slices.Contains(states, j.GetState().String()) {
			continue
		}
		all = append(all, proto.Clone(j).(*jobsv1.Job))
	}
	page, next, err := paged(r, all)
	return &jobsv1.ListJobsResponse{Jobs: page, NextPageToken: next, TotalSize: int64(len(all))}, err
}

func (s *Server) cancelJob(r *http.Request) (proto.Message, error) {
	id, ok := strings.CutSuffix(r.PathValue("id"), ":cancel")
	if !ok {
		return nil, fault.New(fault.NotFound, "no such path")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	j, err := s.job(id)
	if err != nil {
		return nil, err
	}
	if j.proto.GetState() == jobsv1.JobState_JOB_STATE_QUEUED {
		s.setState(j, jobsv1.JobState_JOB_STATE_CANCELLED)
	}
	return proto.Clone(j.proto), nil
}

// events follows a job; see Server.CutStream.
func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	if err := authorised(r); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	j, err := s.job(r.PathValue("id"))
	if err != nil {
		return err
	}
	next := 0
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		s.resumed = append(s.resumed, last)
		if _, err := fmt.Sscanf(last, "1-%d", &next); err != nil {
			return fault.New(fault.Invalid, "Last-Event-ID is not from here")
		}
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	unblock := wakeOnLeave(r, s)
	defer unblock()
	for sent := 0; ; {
		for next >= len(j.events) {
			if s.ctx.Err() != nil || r.Context().Err() != nil {
				return nil
			}
			s.changed.Wait()
		}
		ev := j.events[next]
		next++
		data, err := (&edge.Marshaler{}).Marshal(ev)
		if err != nil {
			return err
		}
		name := strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", ev.GetEvent()), "*jobsv1.JobEvent_"))
		fmt.Fprintf(w, ": a comment\nid: %s\nevent: %s\ndata: %s\n\n", ev.GetId(), name, data)
		_ = flush.Flush()
		sent++
		if st := ev.GetState().GetState(); st >= jobsv1.JobState_JOB_STATE_SUCCEEDED {
			return nil
		}
		if s.CutStream > 0 && sent >= s.CutStream {
			return nil
		}
	}
}

// wakeOnLeave wakes a waiting stream when its client goes.
func wakeOnLeave(r *http.Request, s *Server) (stop func()) {
	done := make(chan struct{})
	go func() {
		select {
		case <-r.Context().Done():
			s.mu.Lock()
			s.changed.Broadcast()
			s.mu.Unlock()
		case <-done:
		}
	}()
	return func() { close(done) }
}
