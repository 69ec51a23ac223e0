package dist

import (
	"strings"
	"testing"
)

func TestWithoutSecrets(t *testing.T) {
	for location, want := range map[string]string{
		"https://host/t/SECRET/chan/linux-64/a-1-0.conda":      "https://host/chan/linux-64/a-1-0.conda",
		"https://host/get/t/SECRET/chan":                       "https://host/get/chan",
		"https://host/%74/SECRET/chan/":                        "https://host/chan/",
		"https://host/t/SECRET":                                "https://host",
		"https://host/t/SECRET/":                               "https://host/",
		"https://u:SECRET@host:8080/chan":                      "https://host:8080/chan",
		"https://u:SE@CRET@host/chan":                          "https://host/chan",
		"https://host/chan/a-1-0.conda?X-Amz-Signature=SECRET": "https://host/chan/a-1-0.conda",
		"https://SECRET@host?t=SECRET#":                        "https://host",
		"https://SECRET@host":                                  "https://host",
		"HTTP://u:SECRET@[::1]:80/t/SECRET/c?a=/t/b":           "HTTP://[::1]:80/c",
		"oci://u:SECRET@ghcr.io/channel-mirrors/conda-forge":   "oci://ghcr.io/channel-mirrors/conda-forge",
		"https://h/t/SECRET/t/linux-64/a-1-0.conda":            "https://h/t/linux-64/a-1-0.conda",
		"https://host/c/a-1-0.conda?x=SECRET#sha256:0a":        "https://host/c/a-1-0.conda#sha256:0a",
		"https://h\x00st/%zz/t/SECRET/x":                       "https://h\x00st/%zz/x",
		// These have none, and stay as they are.
		"https://host/t/linux-64/a-1-0.conda":     "https://host/t/linux-64/a-1-0.conda",
		"https://host/a%20b/c%2Fd//t//x/":         "https://host/a%20b/c%2Fd//t//x/",
		"https://host/chan/a@b/x-1!2-0.conda#0a0": "https://host/chan/a@b/x-1!2-0.conda#0a0",
		"file:///t/secret/chan?/x":                "file:///t/secret/chan?/x",
		"/t/secret/chan":                          "/t/secret/chan",
		"../t/secret/a@b?c":                       "../t/secret/a@b?c",
		`C:\t\secret\chan`:                        `C:\t\secret\chan`,
		"conda-forge":                             "conda-forge",
		"":                                        "",
	} {
		got := WithoutSecrets(location)
		if got != want {
			t.Errorf("%s: %s, want %s", location, got, want)
		}
		if again := WithoutSecrets(got); again != got {
			t.Errorf("%s: the second time it becomes %s", got, again)
		}
	}
}

func FuzzWithoutSecrets(f *testing.F) {
	f.Add("https://u:p@host/t/x/y?z#f")
	f.Add("https://t/t/t/t/t")
	f.Fuzz(func(t *testing.T, location string) {
		got := WithoutSecrets(location)
		if !strings.Contains(location, "://") && got != location {
			t.Errorf("%q, which is no URL, became %q", location, got)
		}
		if len(got) > len(location) {
			t.Errorf("%q became longer: %q", location, got)
		}
	})
}
