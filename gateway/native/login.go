package native

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"time"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
)

// loginWay is one way to log in, as a page shows it.
type loginWay struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Title    string `json:"title"`
	LoginURL string `json:"login_url"`
}

func (a *api) providers(w http.ResponseWriter, r *http.Request) error {
	all, err := a.logins.Providers(r.Context())
	if err != nil {
		return err
	}
	ways := make([]loginWay, 0, len(all))
	for _, p := range all {
		ways = append(ways, loginWay{p.GetName(), p.GetKind(), p.GetTitle(), "/auth/" + url.PathEscape(p.GetName()) + "/login"})
	}
	edge.WriteJSON(w, http.StatusOK, "application/json", map[string]any{"providers": ways})
	return nil
}

// loginAnswer says who is logged in now; the login itself is in the cookie.
type loginAnswer struct {
	User struct {
		ID        string `json:"id"`
		Username  string `json:"username"`
		Name      string `json:"name"`
		AvatarURL string `json:"avatar_url"`
		Role      string `json:"role"`
	} `json:"user"`
	ExpireTime time.Time `json:"expire_time"`
}

func (a *api) login(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Username string `json:"username"`
		Password string `json:"password"`
	}
	if err := readJSON(r, &in); err != nil {
		return err
	}
	resp, err := a.logins.Password(w, r, in.Username, in.Password)
	if err != nil {
		return err
	}
	edge.WriteJSON(w, http.StatusOK, "application/json", answerOf(resp))
	return nil
}

func answerOf(resp *identityv1.LoginResponse) loginAnswer {
	out := loginAnswer{ExpireTime: resp.GetExpireTime().AsTime()}
	u := resp.GetUser()
	out.User.ID, out.User.Username, out.User.Name, out.User.AvatarURL, out.User.Role = u.GetId(), u.GetUsername(), u.GetName(), u.GetAvatarUrl(), u.GetRole()
	return out
}

func (a *api) logout(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Everywhere bool `json:"everywhere"`
	}
	if r.ContentLength != 0 {
		if err := readJSON(r, &in); err != nil {
			return err
		}
	}
	if err := a.logins.Logout(w, r, in.Everywhere); err != nil {
		return err
	}
	edge.WriteJSON(w, http.StatusOK, "application/json", struct{}{})
	return nil
}

// readJSON takes application/json only: no form of a foreign page can send that without asking us first.
func readJSON(r *http.Request, out any) error {
	if !isJSON(r) {
		return notJSON()
	}
	d := json.NewDecoder(r.Body)
	if err := d.Decode(out); err != nil {
		var tooBig *http.MaxBytesError
		if errors.As(err, &tooBig) {
			return fault.New(fault.Invalid, "the request body is larger than %d bytes", tooBig.Limit)
		}
		return fault.New(fault.Invalid, "the request body is not the JSON that is wanted")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fault.New(fault.Invalid, "the request body holds more than one value")
	}
	return nil
}

func isJSON(r *http.Request) bool {
	ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && ct == "application/json"
}

func notJSON() error {
	return fault.New(fault.Denied, "with a login cookie the Content-Type must be application/json").WithReason("CONTENT_TYPE")
}

// jsonOnly holds requests that live from the login cookie to application/json; with a key any type will do.
func jsonOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if edge.SessionFrom(r.Context()) != "" && r.Method != http.MethodGet && r.Method != http.MethodHead && r.ContentLength != 0 && !isJSON(r) {
			edge.WriteProblem(w, r, notJSON())
			return
		}
		next.ServeHTTP(w, r)
	})
}

// loginPaths describe the routes above.
func loginPaths() map[string]any {
	about := func(id, summary, answer string, in map[string]any) map[string]any {
		op := map[string]any{
			"summary": summary, "operationId": id, "tags": []any{"LoginService"}, "security": []any{},
			"responses": map[string]any{"200": map[string]any{"description": answer}},
		}
		if in != nil {
			op["consumes"] = []any{"application/json"}
			op["parameters"] = []any{map[string]any{"name": "body", "in": "body", "required": true, "schema": map[string]any{"type": "object", "properties": in}}}
		}
		return op
	}
	text, yes := map[string]any{"type": "string"}, map[string]any{"type": "boolean"}
	return map[string]any{
		Prefix + "/login": map[string]any{
			"get":  about("ListWaysToLogIn", "The ways to log in", "Providers, with the path that begins each.", nil),
			"post": about("LogIn", "Log in by name and password", "The user; the login is in the cookie that the answer sets.", map[string]any{"username": text, "password": text}),
		},
		Prefix + "/logout": map[string]any{
			"post": about("LogOut", "End this login, or all of one's own", "The login has ended.", map[string]any{"everywhere": yes}),
		},
	}
}
