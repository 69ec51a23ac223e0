package attacktest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// TestSmuggling sends requests that two parsers read as different ones. Each gets one answer at most, no error of ours,
// and what hides inside is never answered.
func TestSmuggling(t *testing.T) {
	s := platformtest.Start(t)
	const hidden = "DELETE /api/channels/channel0 HTTP/1.1\r\nHost: x\r\n"
	inside := hidden + "X-Api-Key: " + s.AdminKey + "\r\n\r\n"
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inside), inside)
	post := func(headers, body string) string {
		return "POST /api/channels HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n" + body
	}
	get := func(headers string) string { return "GET /api/channels HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n" }
	length := fmt.Sprintf("Content-Length: %d\r\n", len(inside))
	shapes := map[string]string{
		"length and chunks, the chunks end first": post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+inside),
		"chunks and length":                       post("Transfer-Encoding: chunked\r\n"+length, "0\r\n\r\n"+inside),
		"length, and chunks in disguise (tab)":    post("Transfer-Encoding:\tchunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+inside),
		"chunked with a space before the colon":   post("Transfer-Encoding : chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+inside),
		"xchunked":                                post("Transfer-Encoding: xchunked\r\n"+length, inside),
		"chunked, identity":                       post("Transfer-Encoding: chunked, identity\r\n"+length, inside),
		"identity":                                post("Transfer-Encoding: identity\r\n"+length, inside),
		"gzip, chunked":                           post("Transfer-Encoding: gzip, chunked\r\n", chunked),
		"two transfer encodings":                  post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", chunked),
		"chunked twice":                           post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+inside),
		"CHUNKED":                                 post("Transfer-Encoding: CHUNKED\r\nContent-Length: 5\r\n", "0\r\n\r\n"+inside),
		"chunked with a vertical tab":             post("Transfer-Encoding: \vchunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+inside),
		"chunked with a NUL":                      post("Transfer-Encoding: chunked\x00\r\nContent-Length: 5\r\n", "0\r\n\r\n"+inside),
		"chunked in quotes":                       post("Transfer-Encoding: \"chunked\"\r\nContent-Length: 5\r\n", "0\r\n\r\n"+inside),
		"chunked in a folded line":                post("Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+inside),
		"chunked behind a folded line":            post("X-A: b\r\n Transfer-Encoding: chunked\r\n"+length, inside),
		"chunked with an underscore":              post("Transfer_Encoding: chunked\r\n"+length, inside),
		"two lengths":                             post("Content-Length: 5\r\n"+length, inside),
		"two lengths, one nothing":                post("Content-Length: 0\r\n"+length, inside),
		"a list of lengths":                       post(fmt.Sprintf("Content-Length: 5, %d\r\n", len(inside)), inside),
		"a list of equal lengths":                 post(fmt.Sprintf("Content-Length: %d, %d\r\n", len(inside), len(inside)), inside),
		"a length with a plus":                    post(fmt.Sprintf("Content-Length: +%d\r\n", len(inside)), inside),
		"a negative length":                       post("Content-Length: -1\r\n", inside),
		"a length in hexadecimal":                 post(fmt.Sprintf("Content-Length: 0x%x\r\n", len(inside)), inside),
		"a length with a space":                   post("Content-Length: 1 5\r\n", inside),
		"a length with a fraction":                post("Content-Length: 5.0\r\n", inside),
		"an empty length":                         post("Content-Length: \r\n", inside),
		"a length beyond all":                     post("Content-Length: 99999999999999999999\r\n", inside),
		"a length with a space before its colon":  post("Content-Length : 5\r\n", inside),
		"a length with an underscore":             post("Content_Length: 5\r\n"+length, inside),
		"a GET with a body":                       get(length) + inside,
		"a HEAD with a body":                      strings.Replace(get(length), "GET", "HEAD", 1) + inside,
		"a chunk extension":                       post("Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x;a=\"b\"\r\n%s\r\n0\r\n\r\n", len(inside), inside)),
		"a chunk extension with a newline":        post("Transfer-Encoding: chunked\r\n", "2;\n0\r\n"+"xx\r\n0\r\n\r\n"+inside),
		"a chunk size in 0x":                      post("Transfer-Encoding: chunked\r\n", "0x5\r\nhello\r\n0\r\n\r\n"+inside),
		"a chunk size with a plus":                post("Transfer-Encoding: chunked\r\n", "+5\r\nhello\r\n0\r\n\r\n"+inside),
		"a chunk size with a sign":                post("Transfer-Encoding: chunked\r\n", "-1\r\nhello\r\n0\r\n\r\n"+inside),
		"a chunk size beyond all":                 post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"+inside),
		"a chunk longer than it says":             post("Transfer-Encoding: chunked\r\n", "3\r\nhello\r\n0\r\n\r\n"+inside),
		"a chunk shorter than it says":            post("Transfer-Encoding: chunked\r\n", "9\r\nhello\r\n0\r\n\r\n"+inside),
		"chunks without an end":                   post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
		"trailers that are a key":                 post("Transfer-Encoding: chunked\r\nTrailer: X-Api-Key\r\n", "2\r\n{}\r\n0\r\nX-Api-Key: "+s.AdminKey+"\r\n\r\n"),
		"trailers that are not announced":         post("Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\nX-Api-Key: "+s.AdminKey+"\r\nContent-Length: 5\r\n\r\n"),
		"a folded header":                         get("X-A: b\r\n c\r\n"),
		"a folded key":                            get("X-Api-Key: x\r\n " + s.AdminKey + "\r\n"),
		"a bare carriage return":                  get("X-A: b\rX-Api-Key: " + s.AdminKey + "\r\n"),
		"bare newlines":                           strings.ReplaceAll(get("X-A: b\r\n"), "\r\n", "\n"),
		"one bare newline":                        get("X-A: b\nX-B: c\r\n"),
		"a header without a colon":                get("Nothing\r\n"),
		"a header without a name":                 get(": x\r\n"),
		"a name with a space":                     get("X A: b\r\n"),
		"a space before the first header":         "GET /api/channels HTTP/1.1\r\n Host: x\r\nX-A: b\r\n\r\n",
		"a NUL in a value":                        get("X-A: b\x00c\r\n"),
		"a NUL in a name":                         get("X\x00A: b\r\n"),
		"bytes that are no text":                  get("X-A: \xff\xfe\r\n"),
		"no host":                                 "GET /api/channels HTTP/1.1\r\n\r\n",
		"two hosts":                               "GET /api/channels HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
		"a host that is a path":                   "GET /api/channels HTTP/1.1\r\nHost: x/../y\r\n\r\n",
		"a host with a space":                     "GET /api/channels HTTP/1.1\r\nHost: x y\r\n\r\n",
		"an absolute target":                      "GET http://other.example/api/channels HTTP/1.1\r\nHost: x\r\n\r\n",
		"an absolute target of another scheme":    "GET file:///etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
		"an authority":                            "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: x\r\n\r\n",
		"an asterisk":                             "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
		"an asterisk for GET":                     "GET * HTTP/1.1\r\nHost: x\r\n\r\n",
		"no slash":                                "GET api/channels HTTP/1.1\r\nHost: x\r\n\r\n",
		"HTTP/0.9":                                "GET /api/channels\r\n",
		"HTTP/1.0":                                "GET /api/channels HTTP/1.0\r\n\r\n",
		"HTTP/2's preface":                        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"HTTP/9.9":                                "GET /api/channels HTTP/9.9\r\nHost: x\r\n\r\n",
		"http/1.1":                                "GET /api/channels http/1.1\r\nHost: x\r\n\r\n",
		"a lower-case method":                     "get /api/channels HTTP/1.1\r\nHost: x\r\n\r\n",
		"no method":                               " /api/channels HTTP/1.1\r\nHost: x\r\n\r\n",
		"a method with a newline":                 "GE\nT /api/channels HTTP/1.1\r\nHost: x\r\n\r\n",
		"two spaces":                              "GET  /api/channels HTTP/1.1\r\nHost: x\r\n\r\n",
		"a tab for a space":                       "GET\t/api/channels\tHTTP/1.1\r\nHost: x\r\n\r\n",
		"a space in the target":                   "GET /api/channels x HTTP/1.1\r\nHost: x\r\n\r\n",
		"a newline before the request":            "\r\n" + get(""),
		"an upgrade to h2c":                       get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"),
		"an upgrade to a web socket":              get("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n"),
		"an expectation":                          get("Expect: 200-ok\r\n"),
		"a huge header":                           get("X-A: " + strings.Repeat("a", 200_000) + "\r\n"),
		"very many headers":                       get(strings.Repeat("X-A: b\r\n", 20_000)),
		"a huge target":                           "GET /" + strings.Repeat("a", 200_000) + " HTTP/1.1\r\nHost: x\r\n\r\n",
	}
	for name, request := range shapes {
		_, answer := exchange(t, addr(s), request, true)
		statuses, rest := answers(answer)
		if len(statuses) > 1 {
			t.Errorf("%s: answered with %v", name, statuses)
		}
		for _, status := range statuses {
			if status >= 500 && status != 501 && status != 505 { // which net/http says of encodings and versions it has not
				t.Errorf("%s: %d", name, status)
			}
		}
		if len(statuses) == 0 && strings.TrimSpace(rest) != "" {
			t.Errorf("%s: what came back is no answer: %.100q", name, rest)
		}
		if resp := s.Anonymous().In(t).Do("GET", "/api/channels/channel0", nil); resp.Status != 200 {
			t.Fatalf("%s: what was inside has acted: %d", name, resp.Status)
		}
	}
	whole(t, s)
	t.Logf("%d shapes", len(shapes))
}
