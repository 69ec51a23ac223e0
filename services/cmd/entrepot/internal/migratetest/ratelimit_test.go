package migratetest

import (
	"strconv"
	"testing"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

func TestWhoAsksTooOftenIsHeldBack(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(func(c *platform.Config) {
		c.RateLimit.RequestsPerSecond, c.RateLimit.Burst = 0.001, 20
		c.RateLimit.FilesPerSecond, c.RateLimit.FilesBurst = 0.001, 3
		c.RateLimit.AnonymousRequestsPerSecond, c.RateLimit.AnonymousBurst = 0.001, 4
	}))
	s.Admin().Must(201, "POST", "/api/channels", map[string]any{"name": "open", "private": false})

	until := func(c *platformtest.Client, path string) (served int, last *platformtest.Response) {
		for range 40 {
			if last = c.Do("GET", path, nil); last.Status == 429 {
				return served, last
			}
			served++
		}
		return served, last
	}
	served, refused := until(s.Anonymous(), "/api/channels/open")
	var body struct{ Detail string }
	refused.JSON(&body)
	if after, err := strconv.Atoi(refused.Header.Get("Retry-After")); served != 4 || refused.Status != 429 || err != nil || after < 1 || body.Detail == "" {
		t.Errorf("anonymous: %d served, then %d %q %s", served, refused.Status, refused.Header.Get("Retry-After"), refused.Body)
	}
	if resp := s.As("wrong").Do("GET", "/entrepot/v1/channels", nil); resp.Status != 429 || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("a worthless key at an address that has asked enough: %d %s", resp.Status, resp.Body)
	}
	if resp := s.Anonymous().Do("GET", "/health/ready", nil); resp.Status != 200 {
		t.Errorf("the health check: %d", resp.Status)
	}
	if served, refused := until(s.Admin(), "/channels/open/noarch/repodata.json"); served != 3 || refused.Status != 429 {
		t.Errorf("files: %d served, then %d", served, refused.Status)
	}
	s.Admin().Must(200, "GET", "/api/channels/open", nil) // the API has a bucket of its own
	if served, refused := until(s.Admin(), "/entrepot/v1/channels/open"); served > 19 || refused.Status != 429 {
		t.Errorf("the API: %d served, then %d", served, refused.Status)
	}
}
