package login

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/oauth2"
)

// gitHub is github.com or a server of GitHub Enterprise.
type gitHub struct {
	conf     ProviderConfig
	url, api string
	http     *http.Client
}

func newGitHub(conf ProviderConfig, client *http.Client) *gitHub {
	g := &gitHub{conf: conf, url: "https://github.com", api: "https://api.github.com", http: client}
	if conf.URL != "" && strings.TrimSuffix(conf.URL, "/") != g.url {
		g.url = strings.TrimSuffix(conf.URL, "/")
		g.api = g.url + "/api/v3"
	}
	if conf.APIURL != "" {
		g.api = strings.TrimSuffix(conf.APIURL, "/")
	}
	return g
}

func (g *gitHub) issuer() string { return g.url }
func (g *gitHub) revokeURL() string {
	return g.url + "/settings/connections/applications/" + g.conf.ClientID
}

func (g *gitHub) begin(context.Context, Flow) (oauth2.Endpoint, []string, []oauth2.AuthCodeOption, error) {
	var scopes []string // none: the public profile
	if g.conf.needsGroups() {
		scopes = []string{"read:org"}
	}
	return oauth2.Endpoint{
		AuthURL: g.url + "/login/oauth/authorize", TokenURL: g.url + "/login/oauth/access_token", AuthStyle: oauth2.AuthStyleInParams,
	}, scopes, nil, nil
}

func (g *gitHub) who(ctx context.Context, _ Flow, token *oauth2.Token) (Person, error) {
	var u struct {
		ID     int64  `json:"id"`
		Login  string `json:"login"`
		Name   string `json:"name"`
		Avatar string `json:"avatar_url"`
	}
	if err := getJSON(ctx, g.http, g.api+"/user", token.AccessToken, &u); err != nil {
		return Person{}, err
	}
	if u.ID <= 0 {
		return Person{}, distrust("the user has no number")
	}
	p := Person{Issuer: g.url, Subject: strconv.FormatInt(u.ID, 10), Username: u.Login, Name: u.Name, AvatarURL: u.Avatar}
	if !g.conf.needsGroups() {
		return p, nil
	}
	type org struct {
		Login string `json:"login"`
	}
	orgs, err := pages[org](ctx, g, "/user/orgs", token.AccessToken)
	if err != nil {
		return Person{}, err
	}
	for _, o := range orgs {
		p.Groups = append(p.Groups, o.Login)
	}
	type team struct {
		Slug string `json:"slug"`
		Org  org    `json:"organization"`
	}
	teams, err := pages[team](ctx, g, "/user/teams", token.AccessToken)
	if err != nil {
		return Person{}, err
	}
	for _, t := range teams {
		p.Groups = append(p.Groups, t.Org.Login+"/"+t.Slug)
	}
	return p, nil
}

// pages reads a list to its end, or to what is more than anybody is in.
func pages[T any](ctx context.Context, g *gitHub, path, token string) (all []T, err error) {
	const size = 100
	for page := 1; len(all) < maxGroups; page++ {
		var some []T
		if err := getJSON(ctx, g.http, fmt.Sprintf("%s%s?per_page=%d&page=%d", g.api, path, size, page), token, &some); err != nil {
			return nil, err
		}
		all = append(all, some...)
		if len(some) < size {
			break
		}
	}
	return all, nil
}
