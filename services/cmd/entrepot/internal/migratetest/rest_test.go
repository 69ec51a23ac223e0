package migratetest

import (
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

type obj = map[string]any

func TestWhatComesFromElsewhereIsCheckedAndReplaced(t *testing.T) {
	s := platformtest.Start(t)
	ok(t, s, "channel", "create", "lab")

	t.Run("counts are replaced, and taken back as a whole", func(t *testing.T) {
		const source = "6f1f9c2e-6a1c-4b7c-9d38-0d5a4a6f3a11"
		send := func(status int, files ...obj) {
			t.Helper()
			s.Admin().In(t).Must(status, "POST", "/entrepot/v1/channels/lab/metrics/imports", obj{"source_id": source, "source": "elsewhere", "files": files})
		}
		series := func(path string, points ...any) obj {
			list := []obj{}
			for i := 0; i < len(points); i += 2 {
				list = append(list, obj{"time": points[i], "count": points[i+1]})
			}
			return obj{"path": path, "interval": "INTERVAL_DAY", "series": list}
		}
		totals := func() (channel, file int64) {
			return query[int64](t, s, `SELECT total FROM metrics.items WHERE path = ''`), query[int64](t, s, `SELECT total FROM metrics.items WHERE path = 'noarch/a-1-0.conda'`)
		}
		send(200, series("noarch/a-1-0.conda", "2022-01-02T00:00:00Z", 3, "2022-01-03T00:00:00Z", 4), series("noarch/b-1-0.conda", "2022-01-02T00:00:00Z", 10))
		send(200, series("noarch/a-1-0.conda", "2022-01-02T10:00:00Z", 5))
		if channel, file := totals(); channel != 15 || file != 5 {
			t.Errorf("the channel has %d downloads and the file %d", channel, file)
		}
		if n := query[int64](t, s, `SELECT sum(n)::bigint FROM metrics.series s JOIN metrics.items i ON i.id = s.item_id WHERE i.path = ''`); n != 15 {
			t.Errorf("the channel's series has %d", n)
		}
		if n := query[int64](t, s, `SELECT count(*) FROM metrics.series WHERE n <= 0`); n != 0 {
			t.Errorf("%d periods hold nothing", n)
		}
		send(400, series("noarch/a-1-0.conda", "2022-01-02T00:00:00Z", -1))
		send(400, series("noarch/a-1-0.conda", "2022-01-02T00:00:00Z", 1, "2022-01-02T01:00:00Z", 1))
		send(400, series("noarch/a-1-0.conda", "2999-01-02T00:00:00Z", 1))
		send(400, series("../a-1-0.conda", "2022-01-02T00:00:00Z", 1))
		if resp := s.User("bob").In(t).Do("POST", "/entrepot/v1/channels/lab/metrics/imports", obj{"source_id": source, "source": "x", "files": []obj{series("noarch/a-1-0.conda")}}); resp.Status != 403 {
			t.Errorf("a stranger imports counts: %d", resp.Status)
		}
		s.Admin().In(t).Must(200, "DELETE", "/entrepot/v1/channels/lab/metrics/pulls/"+source, nil)
		if channel, file := totals(); channel != 0 || file != 0 {
			t.Errorf("taken back: %d and %d", channel, file)
		}
	})

	t.Run("only an owner of the server brings keys of others", func(t *testing.T) {
		s.Admin().In(t).Must(200, "POST", "/entrepot/v1/users", obj{"username": "grace", "role": "maintainer"})
		key := obj{"id": "abcdefghijkl", "sha256": strings.Repeat("ab", 32)}
		s.User("grace").In(t).Must(403, "POST", "/entrepot/v1/users/bob/imported-keys", key)
		s.Admin().In(t).Must(200, "POST", "/entrepot/v1/users/bob/imported-keys", key)
		s.Admin().In(t).Must(200, "POST", "/entrepot/v1/users/bob/imported-keys", key) // the same again
		s.Admin().In(t).Must(409, "POST", "/entrepot/v1/users/carol/imported-keys", key)
		s.Admin().In(t).Must(409, "POST", "/entrepot/v1/users/bob/imported-keys", obj{"id": "abcdefghijkl", "sha256": strings.Repeat("cd", 32)})
		s.Admin().In(t).Must(400, "POST", "/entrepot/v1/users/bob/imported-keys", obj{"id": "abc/efghijkl", "sha256": strings.Repeat("ab", 32)})
		s.Admin().In(t).Must(400, "POST", "/entrepot/v1/users/bob/imported-keys", obj{"id": "abcdefghijkl", "sha256": "ab"})
		s.Admin().In(t).Must(404, "POST", "/entrepot/v1/users/nobody/imported-keys", obj{"id": "bbcdefghijkl", "sha256": strings.Repeat("ab", 32)})
	})

	t.Run("a batch that is no batch is refused", func(t *testing.T) {
		for name, c := range map[string]struct {
			contentType, body string
		}{
			"no form":        {"application/json", "{}"},
			"about nothing":  {"multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"about\"\r\n\r\n{}\r\n--x--\r\n"},
			"unknown key":    {"multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"about\"\r\n\r\n{\"recrod\":{}}\r\n--x--\r\n"},
			"no file name":   {"multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"noarch\"\r\n\r\nbytes\r\n--x--\r\n"},
			"cut in the end": {"multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"noarch\"; filename=\"a-1-0.conda\"\r\n\r\nbyt"},
		} {
			resp := s.Admin().In(t).Send(400, platformtest.Request{
				Method: "POST", Path: "/entrepot/v1/channels/lab/imports", Body: c.body, Header: map[string][]string{"Content-Type": {c.contentType}},
			})
			if resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s: %s", name, resp.Body)
			}
		}
		resp := s.Admin().In(t).Send(200, platformtest.Request{
			Method: "POST", Path: "/entrepot/v1/channels/lab/imports", Header: map[string][]string{"Content-Type": {"multipart/form-data; boundary=x"}},
			Body: "--x\r\nContent-Disposition: form-data; name=\"noarch\"; filename=\"../../etc/passwd-1-0.conda\"\r\n\r\nbytes\r\n--x--\r\n",
		})
		var out struct {
			Results []struct{ State, Reason string }
		}
		if resp.JSON(&out); len(out.Results) != 1 || out.Results[0].State != "STATE_REFUSED" || out.Results[0].Reason != "FILENAME_INVALID" {
			t.Errorf("%s", resp.Body)
		}
	})
}
