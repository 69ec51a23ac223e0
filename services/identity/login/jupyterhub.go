package login

import (
	"context"
	"net/http"
	"strings"

	"golang.org/x/oauth2"
)

// jupyterHub is a JupyterHub, with which this server is registered as a service. Its URL ends in the hub's prefix,
// usually /hub.
type jupyterHub struct {
	url, api string
	http     *http.Client
}

func newJupyterHub(conf ProviderConfig, client *http.Client) *jupyterHub {
	j := &jupyterHub{url: strings.TrimSuffix(conf.URL, "/"), http: client}
	j.api = j.url + "/api"
	if conf.APIURL != "" {
		j.api = strings.TrimSuffix(conf.APIURL, "/")
	}
	return j
}

func (j *jupyterHub) issuer() string    { return j.url }
func (j *jupyterHub) revokeURL() string { return j.url + "/token" }

func (j *jupyterHub) begin(context.Context, Flow) (oauth2.Endpoint, []string, []oauth2.AuthCodeOption, error) {
	// Without scopes a hub grants those that the service's role has; reading who it is needs none.
	return oauth2.Endpoint{AuthURL: j.url + "/api/oauth2/authorize", TokenURL: j.api + "/oauth2/token", AuthStyle: oauth2.AuthStyleInParams}, nil, nil, nil
}

func (j *jupyterHub) who(ctx context.Context, _ Flow, token *oauth2.Token) (Person, error) {
	var u struct {
		Kind   string   `json:"kind"`
		Name   string   `json:"name"`
		Groups []string `json:"groups"`
	}
	if err := getJSON(ctx, j.http, j.api+"/user", token.AccessToken, &u); err != nil {
		return Person{}, err
	}
	if u.Kind != "" && u.Kind != "user" {
		return Person{}, distrust("it is a service, not a user")
	}
	// A hub's users are their names: it has nothing else that lasts.
	return Person{Issuer: j.url, Subject: u.Name, Username: u.Name, Name: u.Name, Groups: u.Groups}, nil
}
