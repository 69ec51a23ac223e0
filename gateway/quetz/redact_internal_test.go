package quetz

import (
	"encoding/json"
	"testing"
)

func TestInputIsRepeatedWithoutSecrets(t *testing.T) {
	for in, want := range map[string]string{
		`{"name": 5,  "a": [1.50, null]}`:                          `{"name": 5,  "a": [1.50, null]}`,
		`"http://up.example/chan"`:                                 `"http://up.example/chan"`,
		`"http://u:p@up.example/t/tok/chan?sig=x"`:                 `"http://up.example/t/***/chan?sig=***"`,
		`{"mirror_channel_url":"ftp://u:p@h/","n":12345678901234}`: `{"mirror_channel_url":"ftp://h/","n":12345678901234}`,
		`{"x":[{"Password":"p"}],"api_key":"k"}`:                   `{"api_key":"***","x":[{"Password":"***"}]}`,
		`["a://b:c@d","e"]`:                                        `["a://d","e"]`,
		`"http://u:p@ho st/"`:                                      `"(not a URL)"`,
	} {
		got := withoutSecrets(invalidFields{{Loc: []any{"body", "field"}, Input: json.RawMessage(in)}})
		if string(got[0].Input) != want {
			t.Errorf("%s became %s, want %s", in, got[0].Input, want)
		}
	}
	got := withoutSecrets(invalidFields{{Loc: []any{"body", "api_key"}, Input: json.RawMessage(`"k"`)}})
	if string(got[0].Input) != `"***"` {
		t.Errorf("a secret field's value is repeated: %s", got[0].Input)
	}
}
