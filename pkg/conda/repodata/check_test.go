package repodata

import (
	"fmt"
	"strings"
	"testing"
)

func TestANumberThatNoDoubleHoldsIsItsRecordsFault(t *testing.T) {
	for number, bad := range map[string]bool{
		"1e999": true, "-1E+400": true, strings.Repeat("9", 400): true, "1e308": false, "-0.5e-400": false, "12345678901234567890": false, `"1e999"`: false, `"\"1e999"`: false,
	} {
		for _, shape := range []string{"%s", "[%s]", `["a",%s]`, `{"k":[1,{"l":%s}]}`} {
			raw := []byte(`{"name":"a","version":"1","build":"0","x":` + fmt.Sprintf(shape, number) + `}`)
			var c checker
			if _, msg, ok := c.record(raw, true); ok == bad || (bad && !strings.Contains(msg, "double")) {
				t.Errorf("%.80s: %v %q", raw, ok, msg)
			}
		}
	}
}
