package dataplane

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/grant"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// GrantHeader carries the token. The parameter "grant" does where headers cannot be set; it ends up in access logs, so
// such grants should be short-lived.
const GrantHeader = "Entrepot-Grant"

// Options configures a Handler.
type Options struct {
	Store    blob.Store
	Verifier *grant.Verifier
	// MaxUpload bounds one upload in bytes, whatever its grant says; 0 means 64 GiB.
	MaxUpload int64
	// IdleTimeout ends an upload whose client sends nothing for so long; 0 means one minute.
	IdleTimeout time.Duration
	// RedirectMin, where above 0 and the store can presign, answers a GET of a blob of at least so many bytes with a
	// redirect to the store's own URL, valid for RedirectTTL (0 means five minutes), instead of passing the bytes on.
	RedirectMin int64
	RedirectTTL time.Duration
	// Ready says whether blobs can be read and written now; who depends on the data plane asks at ReadyPath. nil is always.
	Ready func(context.Context) error
	// Log gets the errors whose text clients do not see; nil means slog.Default.
	Log *slog.Logger
}

// Handler is the server side of the data plane.
type Handler struct{ o Options }

// New returns a handler.
func New(o Options) (*Handler, error) {
	if o.Store == nil || o.Verifier == nil {
		return nil, fault.New(fault.Internal, "a data plane needs a store and a verifier")
	}
	if o.MaxUpload <= 0 {
		o.MaxUpload = 64 << 30
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = time.Minute
	}
	if o.RedirectTTL <= 0 {
		o.RedirectTTL = 5 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Handler{o}, nil
}

// ServeHTTP implements http.Handler for the paths /blobs, /blobs/<64 digits> and ReadyPath.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var err error
	switch name, isBlob := strings.CutPrefix(r.URL.Path, "/blobs/"); {
	case isBlob && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		err = h.get(w, r, name)
	case isBlob && name != "":
		err = methodNotAllowed(w, "GET, HEAD")
	case r.URL.Path == "/blobs" && (r.Method == http.MethodPut || r.Method == http.MethodPost):
		err = h.put(w, r)
	case r.URL.Path == "/blobs":
		err = methodNotAllowed(w, "PUT, POST")
	case r.URL.Path == ReadyPath && r.Method == http.MethodGet:
		h.ready(w, r)
	default:
		err = fault.New(fault.NotFound, "there is nothing here")
	}
	if err == nil {
		return
	}
	switch kind := fault.KindOf(err); kind {
	case fault.Internal, fault.Unavailable:
		h.o.Log.ErrorContext(r.Context(), "data plane request failed", "method", r.Method, "kind", kind.String(), "error", err)
	}
	if r.Body != http.NoBody && r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Connection", "close") // or net/http would read on for up to 256 KiB
	}
	writeError(w, err)
}

// ReadyPath answers 204 if blobs can be read and written now, else 503 with the reason as text.
const ReadyPath = "/healthz/ready"

// readyTimeout is below what those who ask allow themselves for all their parts, so that they hear the reason.
const readyTimeout = 900 * time.Millisecond

func (h *Handler) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeoutCause(r.Context(), readyTimeout, fault.New(fault.Unavailable, "blobs: no answer within %s", readyTimeout))
	defer cancel()
	w.Header().Set("Cache-Control", "no-store")
	if h.o.Ready == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	switch err := h.o.Ready(ctx); {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case ctx.Err() != nil:
		http.Error(w, context.Cause(ctx).Error(), http.StatusServiceUnavailable)
	default:
		http.Error(w, "blobs: "+err.Error(), http.StatusServiceUnavailable)
	}
}

// methodNotAllowed is written out here since package fault has no kind for it.
func methodNotAllowed(w http.ResponseWriter, allow string) error {
	w.Header().Set("Allow", allow)
	w.Header().Set("Connection", "close")
	http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	return nil
}

func token(r *http.Request) string {
	if t := r.Header.Get(GrantHeader); t != "" {
		return t
	}
	return r.URL.Query().Get("grant")
}

// authorise checks the grant for one method and blob.
func (h *Handler) authorise(token string, m grant.Methods, d blob.Digest) (grant.Grant, error) {
	g, err := h.o.Verifier.Verify(token)
	if err != nil {
		return g, err
	}
	return g, g.Allows(m, d)
}

// planeMeta is how the data plane itself serves. Caches in between must not keep what a grant protects.
func planeMeta(d blob.Digest) Meta { return Meta{Digest: d, CacheControl: "private, no-cache"} }

func (h *Handler) get(w http.ResponseWriter, r *http.Request, name string) error {
	d, err := blob.ParseDigest(name)
	if err != nil {
		return err
	}
	if _, err := h.authorise(token(r), grant.Read, d); err != nil {
		return err
	}
	if done, err := h.redirect(w, r, d); done || err != nil {
		return err
	}
	b, err := h.o.Store.Open(r.Context(), d)
	if err != nil {
		return err
	}
	defer b.Close()
	Serve(w, r, b, planeMeta(d))
	return nil
}

// redirect sends a GET to the store itself where that is wanted. HEAD is always answered here: a presigned URL is for one method.
func (h *Handler) redirect(w http.ResponseWriter, r *http.Request, d blob.Digest) (bool, error) {
	if h.o.RedirectMin <= 0 || r.Method != http.MethodGet {
		return false, nil
	}
	p, ok := blob.As[blob.Presigner](h.o.Store)
	if !ok {
		return false, nil
	}
	st, err := h.o.Store.Stat(r.Context(), d)
	if err != nil || st.Size < h.o.RedirectMin {
		return false, err
	}
	if notModified(w, r, planeMeta(d)) {
		return true, nil
	}
	u, err := p.PresignGet(r.Context(), d, h.o.RedirectTTL, blob.PresignHeaders{ContentType: "application/octet-stream"})
	if err != nil {
		return false, err
	}
	w.Header().Set("Cache-Control", "no-store") // the URL is worth the blob until it expires
	w.Header().Set("Location", u.String())
	w.WriteHeader(http.StatusTemporaryRedirect)
	return true, nil
}

// answer is the body of a successful upload.
type answer struct {
	Digest blob.Digest `json:"digest"`
	MD5    string      `json:"md5,omitempty"`
	Size   int64       `json:"size"`
}

func (h *Handler) put(w http.ResponseWriter, r *http.Request) error {
	o, err := parsePut(r.URL.Query())
	if err != nil {
		return err
	}
	g, err := h.authorise(token(r), grant.Write, expected(o))
	if err != nil {
		return err
	}
	if o, err = h.bound(g, o); err != nil {
		return err
	}
	if n := r.ContentLength; n > o.MaxSize {
		return fault.New(fault.Invalid, "%d bytes are more than the allowed %d", n, o.MaxSize).WithReason(blob.ReasonTooLarge)
	} else if n >= 0 && o.ExpectSize == nil {
		o.ExpectSize = &n
	}
	rc := http.NewResponseController(w)
	info, err := h.o.Store.Put(r.Context(), &uploadBody{r: r.Body, idle: func() {
		_ = rc.SetReadDeadline(time.Now().Add(h.o.IdleTimeout)) // not every ResponseWriter can; then the server's own timeout holds
	}}, o)
	_ = rc.SetReadDeadline(time.Time{})
	if err != nil {
		return err
	}
	a := answer{Digest: info.Digest, Size: info.Size}
	if o.MD5 || o.ExpectMD5 != nil {
		a.MD5 = hex.EncodeToString(info.MD5[:])
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(a) // the blob is stored; whether its uploader still listens changes nothing
	return nil
}

// expected is the digest that an upload claims, or zero.
func expected(o blob.PutOptions) blob.Digest {
	if o.Expect == nil {
		return blob.Digest{}
	}
	return *o.Expect
}

// bound applies what the grant says to an upload.
func (h *Handler) bound(g grant.Grant, o blob.PutOptions) (blob.PutOptions, error) {
	if !g.Digest.IsZero() {
		o.Expect = &g.Digest
	}
	for _, limit := range []int64{g.MaxSize, h.o.MaxUpload} {
		if limit > 0 && (o.MaxSize == 0 || limit < o.MaxSize) {
			o.MaxSize = limit
		}
	}
	if o.ExpectSize != nil && *o.ExpectSize > o.MaxSize {
		return o, fault.New(fault.Invalid, "%d bytes are more than the allowed %d", *o.ExpectSize, o.MaxSize).WithReason(blob.ReasonTooLarge)
	}
	return o, nil
}

// uploadBody tells the client's failures from the store's, and gives every read its deadline.
type uploadBody struct {
	r    io.Reader
	idle func()
}

func (b *uploadBody) Read(p []byte) (int, error) {
	b.idle()
	n, err := b.r.Read(p)
	var f *fault.Error
	if err != nil && err != io.EOF && !errors.As(err, &f) {
		err = fault.New(fault.Invalid, "the upload broke off: %w", err).WithReason("UPLOAD_BROKEN")
	}
	return n, err
}

// The parameters of an upload.
const (
	paramHash = "hash"   // "md5": compute it
	paramSHA  = "sha256" // expected, 64 digits
	paramMD5  = "md5"    // expected, 32 digits
	paramSize = "size"   // expected, decimal
)

func parsePut(q url.Values) (o blob.PutOptions, err error) {
	if v := q.Get(paramHash); v == "md5" {
		o.MD5 = true
	} else if v != "" {
		return o, fault.Field(paramHash, "the only other hash is md5")
	}
	if v := q.Get(paramSHA); v != "" {
		d, err := blob.ParseDigest(v)
		if err != nil {
			return o, err
		}
		o.Expect = &d
	}
	if v := q.Get(paramMD5); v != "" {
		b, err := hex.DecodeString(v)
		if err != nil || len(b) != len(blob.MD5{}) {
			return o, fault.Field(paramMD5, "an MD5 has 32 hexadecimal digits")
		}
		o.ExpectMD5 = new(blob.MD5(b))
	}
	if v := q.Get(paramSize); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return o, fault.Field(paramSize, "a size is a decimal number of bytes")
		}
		o.ExpectSize = &n
	}
	return o, nil
}

func formatPut(o blob.PutOptions) url.Values {
	q := url.Values{}
	if o.MD5 {
		q.Set(paramHash, "md5")
	}
	if o.Expect != nil {
		q.Set(paramSHA, o.Expect.String())
	}
	if o.ExpectMD5 != nil {
		q.Set(paramMD5, hex.EncodeToString(o.ExpectMD5[:]))
	}
	if o.ExpectSize != nil {
		q.Set(paramSize, strconv.FormatInt(*o.ExpectSize, 10))
	}
	return q
}
