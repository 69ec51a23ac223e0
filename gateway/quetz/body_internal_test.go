package quetz

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDropTrailingCommas(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":1,}`: `{"a":1}`, "[1,2 ,\n ]": "[1,2 \n ]", `{"a":",}",}`: `{"a":",}"}`, `{"a":"\",}"}`: `{"a":"\",}"}`,
		`{"a":[1,],}`: `{"a":[1]}`, `{}`: `{}`, ``: ``, `,`: `,`, `{"a":1,,}`: `{"a":1,}`, `{"a":"\\",}`: `{"a":"\\"}`,
	} {
		if got := string(dropTrailingCommas([]byte(in))); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// What was JSON stays the JSON that it was.
func FuzzDropTrailingCommas(f *testing.F) {
	for _, s := range []string{`{"a":1,}`, `{"a":",}"}`, `"\\\",]"`, `[[],{}]`, `{"é":"\u002c}"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got := dropTrailingCommas(data)
		if json.Valid(data) && !bytes.Equal(got, data) {
			t.Fatalf("%s became %s", data, got)
		}
	})
}

func TestTimes(t *testing.T) {
	for in, want := range map[string]string{
		"2026-11-21T02:08:30Z": "2026-11-21T02:08:30", "2026-11-21T02:08:30+02:00": "2026-11-21T00:08:30", "2026-11-21T02:08:30": "2026-11-21T02:08:30",
		"2026-11-21T02:08:30.123456": "2026-11-21T02:08:30.123456", "2026-11-21T02:08:30.5Z": "2026-11-21T02:08:30.500000", "2026-11-21": "2026-11-21T00:00:00",
		"2026-11-21 02:08:30": "2026-11-21T02:08:30", "2026-11-21T02:08": "2026-11-21T02:08:00",
	} {
		got, err := parseTime(in)
		if err != nil || naive(got) != want {
			t.Errorf("%s: %s, %v; want %s", in, naive(got), err, want)
		}
	}
	for _, bad := range []string{"", "soon", "2026-13-01", "2026-11-21T25:00:00", "11/21/2026"} {
		if got, err := parseTime(bad); err == nil {
			t.Errorf("%q is %s", bad, got)
		}
	}
	if got := naive(time.Date(2026, 1, 2, 3, 4, 5, 999, time.UTC)); got != "2026-01-02T03:04:05" {
		t.Errorf("nanoseconds: %s", got)
	}
}

func TestBooleans(t *testing.T) {
	for _, s := range []string{"1", "true", "True", "TRUE", "yes", "on", "y", "t"} {
		if b, err := parseBool(s); err != nil || !b {
			t.Errorf("%s: %v, %v", s, b, err)
		}
	}
	for _, s := range []string{"0", "false", "False", "no", "off", "n", "f"} {
		if b, err := parseBool(s); err != nil || b {
			t.Errorf("%s: %v, %v", s, b, err)
		}
	}
	for _, s := range []string{"", "2", "perhaps", "truee"} {
		if _, err := parseBool(s); err == nil {
			t.Errorf("%q is a boolean", s)
		}
	}
}
