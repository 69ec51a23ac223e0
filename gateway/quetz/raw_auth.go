package quetz

import (
	"html/template"
	"mime"
	"net/http"
	"net/url"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
)

// localProvider is the login by passwords that are kept here.
const localProvider = "local"

// beginLogin sends the browser to a provider; for passwords it shows a form.
func (d *dialect) beginLogin(w http.ResponseWriter, r *http.Request) error {
	provider := r.PathValue("provider")
	if provider != localProvider {
		return d.Logins.Begin(w, r, provider)
	}
	if _, err := d.Logins.Provider(r.Context(), provider); err != nil {
		return err
	}
	next, err := edge.LocalPath(r.URL.Query().Get("next"))
	if err != nil {
		return err
	}
	return d.loginForm(w, r, http.StatusOK, next, "")
}

// loginEnabled says that there is such a provider.
func (d *dialect) loginEnabled(w http.ResponseWriter, r *http.Request) error {
	if _, err := d.Logins.Provider(r.Context(), r.PathValue("provider")); err != nil {
		return err
	}
	edge.WriteJSON(w, http.StatusOK, "application/json", true)
	return nil
}

// finishLogin takes what a provider answered.
func (d *dialect) finishLogin(w http.ResponseWriter, r *http.Request) error {
	provider := r.PathValue("provider")
	if provider == localProvider {
		return fault.New(fault.NotFound, "login provider '%s' takes a form by POST", provider)
	}
	return d.Logins.Finish(w, r, provider)
}

// formLogin takes a name and a password from the form of beginLogin.
func (d *dialect) formLogin(w http.ResponseWriter, r *http.Request) error {
	if _, err := d.Logins.Provider(r.Context(), r.PathValue("provider")); err != nil {
		return err
	}
	if r.PathValue("provider") != localProvider {
		return &statusError{http.StatusMethodNotAllowed, "Method Not Allowed"}
	}
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/x-www-form-urlencoded" {
		return &statusError{http.StatusUnsupportedMediaType, "the login form must be application/x-www-form-urlencoded; programs log in with JSON at /entrepot/v1/login"}
	}
	if err := r.ParseForm(); err != nil {
		return fault.New(fault.Invalid, "the form cannot be read")
	}
	f := r.PostForm
	next, err := edge.LocalPath(f.Get("next"))
	if err != nil {
		return err
	}
	if err := d.Logins.CheckFormToken(r, f.Get("token")); err != nil {
		return err
	}
	_, err = d.Logins.Password(w, r, f.Get("username"), f.Get("password"))
	if fault.Is(err, fault.Unauthenticated) {
		return d.loginForm(w, r, http.StatusUnauthorized, next, err.Error())
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
	return nil
}

// revokeLogin leads to the page of a provider where a user takes back what was granted.
func (d *dialect) revokeLogin(w http.ResponseWriter, r *http.Request) error {
	p, err := d.Logins.Provider(r.Context(), r.PathValue("provider"))
	if err != nil {
		return err
	}
	if p.GetRevokeUrl() == "" {
		return fault.New(fault.NotFound, "login provider '%s' has no page to take back what was granted", p.GetName())
	}
	http.Redirect(w, r, p.GetRevokeUrl(), http.StatusSeeOther)
	return nil
}

type loginView struct {
	Token, Next, Problem string
	Others               []loginLink
}

type loginLink struct{ Title, URL string }

var loginTemplate = template.Must(template.New("login").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Log in</title>` + pageStyle + `</head><body>
<h1>Log in</h1>{{with .Problem}}<p role="alert">{{.}}</p>{{end}}
<form method="post" action="/auth/local/authorize">
<input type="hidden" name="token" value="{{.Token}}"><input type="hidden" name="next" value="{{.Next}}">
<p><label>Name<br><input name="username" autocomplete="username" required autofocus></label></p>
<p><label>Password<br><input name="password" type="password" autocomplete="current-password" required></label></p>
<p><button>Log in</button></p></form>{{range .Others}}
<p><a href="{{.URL}}">Log in with {{.Title}}</a></p>{{end}}
</body></html>
`))

func (d *dialect) loginForm(w http.ResponseWriter, r *http.Request, status int, next, problem string) error {
	all, err := d.Logins.Providers(r.Context())
	if err != nil {
		return err
	}
	v := loginView{Next: next, Problem: problem, Token: d.Logins.FormToken(w)}
	for _, p := range all {
		if p.GetName() != localProvider {
			v.Others = append(v.Others, loginLink{p.GetTitle(), "/auth/" + url.PathEscape(p.GetName()) + "/login?next=" + url.QueryEscape(next)})
		}
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	// Nobody shows our form inside theirs, and nothing in it comes from elsewhere.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("Referrer-Policy", "same-origin")
	w.WriteHeader(status)
	return loginTemplate.Execute(w, v)
}

// dummyLogin logs anyone in as anyone. It is a route only in development.
func (d *dialect) dummyLogin(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("username")
	resp, err := d.Identity.CreateSession(authn.WithSelf(r.Context()), &identityv1.CreateSessionRequest{Username: name})
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.NotFound, "User '%s' not found", name)
	}
	if err != nil {
		return err
	}
	d.Logins.Auth.Site.SetCookie(w, edge.SessionCookie, resp.GetSession(), resp.GetExpireTime().AsTime())
	http.Redirect(w, r, "/", http.StatusTemporaryRedirect)
	return nil
}

// logout ends a login; with ?everywhere=true all of the user's.
func (d *dialect) logout(w http.ResponseWriter, r *http.Request) error {
	everywhere, err := queryBool(r, "everywhere", false)
	if err != nil {
		return err
	}
	if err := d.Logins.Logout(w, r, everywhere); err != nil {
		return err
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}
