// Package edgetest is a small platform in memory for tests of its clients: the part of the native REST API that the
// commands use, written with the real edge's marshaler and error bodies, and the channels' files and indexes beside it.
//
// It keeps the contract where clients depend on it: uploads are checked against sha256, a mirror downloads what its
// upstream lists and lists only what arrived whole, jobs tell their story as an event stream that can be resumed. It can
// also be told to break promises (Server.Tamper, Server.CutStream), to see whether a client notices.
package edgetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
)

// Key is the API key that the server knows.
const Key = "ek_test_0123456789"

// Time is when everything happens.
var Time = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Server is the platform.
type Server struct {
	// URL of the edge.
	URL string
	// Tamper changes what is served at a channel's path; nil changes nothing. Returning nil bytes answers 404.
	Tamper func(channel, path string, data []byte) []byte
	// CutStream ends every event stream after this many events; 0 does not.
	CutStream int
	// Hold keeps a job from starting until it is closed; nil does not.
	Hold chan struct{}
	// JobError lets every sync end dead with this error.
	JobError string

	http *httptest.Server
	stop context.CancelFunc
	ctx  context.Context
	wg   sync.WaitGroup

	mu       sync.Mutex
	changed  *sync.Cond
	channels map[string]*channel
	jobs     []*job
	keys     []*identityv1.ApiKey
	resumed  []string
}

// channel is a channel with its files by path.
type channel struct {
	proto *channelsv1.Channel
	files map[string]*stored
}

type stored struct {
	file   *channelsv1.File
	data   []byte
	record []byte
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server {
	s := &Server{channels: map[string]*channel{}}
	s.changed = sync.NewCond(&s.mu)
	s.ctx, s.stop = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	s.routes(mux)
	s.http = httptest.NewServer(mux)
	s.URL = s.http.URL
	t.Cleanup(s.Close)
	return s
}

// Close stops the server. It may be called twice.
func (s *Server) Close() {
	s.stop()
	s.mu.Lock()
	s.changed.Broadcast()
	s.mu.Unlock()
	s.http.CloseClientConnections()
	s.http.Close()
	s.wg.Wait()
}

// Channels returns the names of the channels that there are.
func (s *Server) Channels() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.channels {
		names = append(names, c.proto.GetName())
	}
	return names
}

// Resumed returns the Last-Event-ID of each event stream that was opened with one.
func (s *Server) Resumed() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.resumed...)
}

// handler answers with a message, or with an error as a problem.
type handler func(r *http.Request) (proto.Message, error)

func (s *Server) routes(mux *http.ServeMux) {
	api := func(pattern string, h handler) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /entrepot/v1"+path, func(w http.ResponseWriter, r *http.Request) {
			if err := authorised(r); err != nil {
				edge.WriteProblem(w, r, err)
				return
			}
			m, err := h(r)
			if err != nil {
				edge.WriteProblem(w, r, err)
				return
			}
			if m != nil {
				write(w, http.StatusOK, m)
			}
		})
	}
	api("GET /me", func(*http.Request) (proto.Message, error) {
		return &identityv1.GetMeResponse{User: &identityv1.User{Username: "alice", Role: "owner"}, KeyId: Key[:8]}, nil
	})
	api("GET /api-keys", func(*http.Request) (proto.Message, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return &identityv1.ListApiKeysResponse{ApiKeys: s.keys}, nil
	})
	api("POST /api-keys", s.createKey)
	api("DELETE /api-keys/{id}", s.revokeKey)
	api("GET /channels", s.listChannels)
	api("POST /channels", s.createChannel)
	api("GET /channels/{channel}", func(r *http.Request) (proto.Message, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		c, err := s.channel(r)
		if err != nil {
			return nil, err
		}
		return c.show(), nil
	})
	api("DELETE /channels/{channel}", func(r *http.Request) (proto.Message, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, err := s.channel(r); err != nil {
			return nil, err
		}
		delete(s.channels, strings.ToLower(r.PathValue("channel")))
		return &emptypb.Empty{}, nil
	})
	api("GET /channels/{channel}/packages", s.listPackages)
	api("GET /channels/{channel}/files", s.listFiles)
	api("GET /channels/{channel}/sync", s.syncStatus)
	api("POST /channels/{channel}", s.startSync)
	api("GET /jobs", s.listJobs)
	api("GET /jobs/{id}", func(r *http.Request) (proto.Message, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		j, err := s.job(r.PathValue("id"))
		if err != nil {
			return nil, err
		}
		return j.proto, nil
	})
	api("POST /jobs/{id}", s.cancelJob)
	raw := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := h(w, r); err != nil {
				edge.WriteProblem(w, r, err)
			}
		})
	}
	raw("GET /entrepot/v1/jobs/{id}/events", s.events)
	raw("PUT /entrepot/v1/channels/{channel}/uploads/{filename}", s.upload)
	raw("GET /channels/{channel}/{path...}", s.serveFile)
}

func authorised(r *http.Request) error {
	switch r.Header.Get("Authorization") {
	case "Bearer " + Key:
		return nil
	case "":
		return fault.New(fault.Unauthenticated, "not logged in")
	}
	return fault.New(fault.Unauthenticated, "the key is not known")
}

func write(w http.ResponseWriter, status int, m proto.Message) {
	data, err := (&edge.Marshaler{}).Marshal(m)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

func read(r *http.Request, m proto.Message) error {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(data, m); err != nil { // strict: what the contract does not know is a client's mistake
		return fault.New(fault.Invalid, "the body cannot be read: %v", err)
	}
	return nil
}

func (s *Server) createKey(r *http.Request) (proto.Message, error) {
	req := &identityv1.CreateApiKeyRequest{}
	if err := read(r, req); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := &identityv1.ApiKey{
		Id: fmt.Sprintf("ek_%04d", len(s.keys)+1), Description: req.GetDescription(), Username: "alice", Roles: req.GetRoles(),
		CreateTime: timestamppb.New(Time), ExpireTime: req.GetExpireTime(),
	}
	s.keys = append(s.keys, k)
	return &identityv1.CreateApiKeyResponse{ApiKey: k, Secret: k.GetId() + "_secret"}, nil
}

func (s *Server) revokeKey(r *http.Request) (proto.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, k := range s.keys {
		if k.GetId() == r.PathValue("id") {
			s.keys = append(s.keys[:i:i], s.keys[i+1:]...)
			return &emptypb.Empty{}, nil
		}
	}
	return nil, fault.New(fault.NotFound, "key %s not found", r.PathValue("id"))
}

func hexSHA(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
