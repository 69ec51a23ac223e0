package edgetest

import (
	"bytes"
	"cmp"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// channel finds the channel that a request names; s.mu is held.
func (s *Server) channel(r *http.Request) (*channel, error) {
	name := r.PathValue("channel")
	c := s.channels[strings.ToLower(name)]
	if c == nil {
		return nil, fault.New(fault.NotFound, "channel %s not found", name).WithReason("CHANNEL_NOT_FOUND")
	}
	return c, nil
}

func (c *channel) show() *channelsv1.Channel {
	out := proto.Clone(c.proto).(*channelsv1.Channel)
	packages := map[string]bool{}
	for _, f := range c.files {
		out.Size += f.file.GetSize()
		packages[f.file.GetName()] = true
	}
	out.FileCount, out.PackageCount = int64(len(c.files)), int64(len(packages))
	return out
}

func (s *Server) createChannel(r *http.Request) (proto.Message, error) {
	req := &channelsv1.CreateChannelRequest{}
	if err := read(r, req); err != nil {
		return nil, err
	}
	name, err := names.ParseChannel(req.GetName())
	if err != nil {
		return nil, err
	}
	if m := req.GetMirror(); m != nil && !strings.HasPrefix(m.GetUrl(), "http") {
		return nil, fault.Field("mirror.url", "it must be an http or https URL")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.channels[name.Key()] != nil {
		return nil, fault.New(fault.Conflict, "channel %s exists", name).WithReason("CHANNEL_EXISTS")
	}
	c := &channel{files: map[string]*stored{}, proto: &channelsv1.Channel{
		Id: "00000000-0000-0000-0000-000000000001", Name: name.String(), Namespace: cmp.Or(req.GetNamespace(), "default"),
		Description: req.GetDescription(), Private: req.Private == nil || req.GetPrivate(), Kind: channelsv1.ChannelKind_CHANNEL_KIND_HOSTED,
		Mirror: req.GetMirror(), Ttl: 36000, Head: 1, MemberCount: 1, CreateTime: timestamppb.New(Time), UpdateTime: timestamppb.New(Time),
	}}
	if req.GetMirror() != nil {
		c.proto.Kind = channelsv1.ChannelKind_CHANNEL_KIND_MIRROR
	}
	s.channels[name.Key()] = c
	return c.show(), nil
}

// paged cuts a page out of a list; tokens are offsets.
func paged[T any](r *http.Request, list []T) (page []T, next string, err error) {
	size, err := strconv.Atoi(cmp.Or(r.URL.Query().Get("page_size"), "50"))
	if err != nil || size < 1 || size > 1000 {
		return nil, "", fault.Field("page_size", "page_size must be between 1 and 1000")
	}
	from, err := strconv.Atoi(cmp.Or(r.URL.Query().Get("page_token"), "0"))
	if err != nil || from > len(list) {
		return nil, "", fault.Field("page_token", "page_token is not from here")
	}
	to := min(from+size, len(list))
	if to < len(list) {
		next = strconv.Itoa(to)
	}
	return list[from:to], next, nil
}

func (s *Server) listChannels(r *http.Request) (proto.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*channelsv1.Channel
	for _, key := range slices.Sorted(maps.Keys(s.channels)) {
		if strings.Contains(key, r.URL.Query().Get("query")) {
			all = append(all, s.channels[key].show())
		}
	}
	page, next, err := paged(r, all)
	return &channelsv1.ListChannelsResponse{Channels: page, NextPageToken: next, TotalSize: int64(len(all))}, err
}

func (s *Server) listFiles(r *http.Request) (proto.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.channel(r)
	if err != nil {
		return nil, err
	}
	var all []*channelsv1.File
	for _, path := range slices.Sorted(maps.Keys(c.files)) {
		all = append(all, c.files[path].file)
	}
	page, next, err := paged(r, all)
	return &channelsv1.ListFilesResponse{Files: page, NextPageToken: next, TotalSize: int64(len(all))}, err
}

func (s *Server) listPackages(r *http.Request) (proto.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.channel(r)
	if err != nil {
		return nil, err
	}
	byName := map[string]*channelsv1.Package{}
	for _, path := range slices.Sorted(maps.Keys(c.files)) {
		f := c.files[path].file
		if !strings.Contains(f.GetName(), r.URL.Query().Get("query")) {
			continue
		}
		p := byName[f.GetName()]
		if p == nil {
			p = &channelsv1.Package{Name: f.GetName(), UpdateTime: timestamppb.New(Time)}
			byName[f.GetName()] = p
		}
		p.CurrentVersion = f.GetVersion()
		p.FileCount++
		if !slices.Contains(p.Subdirs, f.GetSubdir()) {
			p.Subdirs = append(p.Subdirs, f.GetSubdir())
		}
	}
	var all []*channelsv1.Package
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		all = append(all, byName[name])
	}
	page, next, err := paged(r, all)
	return &channelsv1.ListPackagesResponse{Packages: page, NextPageToken: next, TotalSize: int64(len(all))}, err
}

func (s *Server) upload(w http.ResponseWriter, r *http.Request) error {
	if err := authorised(r); err != nil {
		return err
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if want := r.URL.Query().Get("sha256"); want != "" && want != hexSHA(data) {
		return fault.Field("sha256", "the body has another SHA-256").WithReason("DIGEST_MISMATCH")
	}
	filename := r.PathValue("filename")
	d, err := dist.ParseFilename(filename)
	if err != nil {
		return fault.Field("filename", "%v", err)
	}
	info, err := archive.Inspect(r.Context(), bytes.NewReader(data), int64(len(data)), filename, archive.Limits{}, archive.Full())
	if err != nil {
		return fault.New(fault.Invalid, "%s is not a package: %v", filename, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.channel(r)
	if err != nil {
		return err
	}
	path := info.Index.Subdir + "/" + filename
	if have := c.files[path]; have != nil && r.URL.Query().Get("force") != "true" {
		if !bytes.Equal(have.data, data) {
			return fault.New(fault.Conflict, "%s exists with other bytes", path).WithReason("FILE_EXISTS")
		}
		write(w, http.StatusOK, have.file)
		return nil
	}
	record, err := repodata.HostedRecord(info.IndexJSON, repodata.FileFacts{Size: int64(len(data)), MD5: md5.Sum(data), SHA256: sha256.Sum256(data)})
	if err != nil {
		return err
	}
	c.proto.Head++
	f := c.put(path, d, data, record)
	write(w, http.StatusCreated, f)
	return nil
}

func (c *channel) put(path string, d dist.Dist, data, record []byte) *channelsv1.File {
	subdir, _, _ := strings.Cut(path, "/")
	sum := md5.Sum(data)
	f := &channelsv1.File{
		Path: path, Sha256: hexSHA(data), Md5: hex.EncodeToString(sum[:]), Size: int64(len(data)), Name: d.Name, Version: d.Version,
		Build: d.Build, Subdir: subdir, Record: string(record), AddedRevision: c.proto.GetHead(), CreateTime: timestamppb.New(Time), Uploader: "alice",
	}
	c.files[path] = &stored{f, data, record}
	return f
}

func (s *Server) serveFile(w http.ResponseWriter, r *http.Request) error {
	s.mu.Lock()
	c, err := s.channel(r)
	if err == nil && c.proto.GetPrivate() {
		err = authorised(r)
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	path := r.PathValue("path")
	data, err := c.content(path)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if s.Tamper != nil {
		data = s.Tamper(r.PathValue("channel"), path, data)
	}
	if data == nil {
		return fault.New(fault.NotFound, "%s not found", path)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(data)
	return nil
}

// content makes what stands at a path: a package, or an index file of what is there now.
func (c *channel) content(path string) ([]byte, error) {
	if f := c.files[path]; f != nil {
		return f.data, nil
	}
	subdir, name, ok := strings.Cut(path, "/")
	if !ok {
		return nil, nil
	}
	var paths []string
	for p, f := range c.files {
		if f.file.GetSubdir() == subdir {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	switch {
	case name == "repodata.json":
		return c.repodata(subdir, paths)
	case name == "repodata.json.zst":
		doc, err := c.repodata(subdir, paths)
		if err != nil {
			return nil, err
		}
		z, err := zstd.NewWriter(nil)
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return z.EncodeAll(doc, nil), nil
	case name == "repodata_shards.msgpack.zst", strings.HasSuffix(name, ".msgpack.zst"):
		index, shards, err := c.shards(subdir, paths)
		if err != nil || name == "repodata_shards.msgpack.zst" {
			return index, err
		}
		return shards[strings.TrimPrefix(name, "shards/")], nil
	}
	return nil, nil
}

func bucketOf(path string) repodata.Bucket {
	if strings.HasSuffix(path, ".conda") {
		return repodata.Conda
	}
	return repodata.TarBz2
}

func (c *channel) repodata(subdir string, paths []string) ([]byte, error) {
	var out bytes.Buffer
	w := repodata.NewWriter(&out, repodata.Info{Subdir: subdir})
	for _, b := range []repodata.Bucket{repodata.TarBz2, repodata.Conda} {
		for _, p := range paths {
			if bucketOf(p) == b {
				if err := w.Record(b, strings.TrimPrefix(p, subdir+"/"), c.files[p].record); err != nil {
					return nil, err
				}
			}
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

func (c *channel) shards(subdir string, paths []string) (index []byte, byName map[string][]byte, err error) {
	ix := repodata.ShardIndex{Subdir: subdir, BaseURL: "./", ShardsBaseURL: "./shards/", Shards: map[string][32]byte{}}
	groups := map[string]*repodata.Shard{}
	for _, p := range paths {
		f := c.files[p]
		g := groups[f.file.GetName()]
		if g == nil {
			g = &repodata.Shard{}
			groups[f.file.GetName()] = g
		}
		g.Records = append(g.Records, repodata.ShardRecord{Bucket: bucketOf(p), Key: strings.TrimPrefix(p, subdir+"/"), Raw: f.record})
	}
	byName = map[string][]byte{}
	for name, g := range groups {
		data, digest, err := repodata.BuildShard(*g)
		if err != nil {
			return nil, nil, fmt.Errorf("shard %s: %w", name, err)
		}
		ix.Shards[name] = digest
		byName[repodata.ShardPath(digest)] = data
	}
	index, err = repodata.BuildIndex(ix)
	return index, byName, err
}
