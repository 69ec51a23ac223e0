package seal_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/seal"
)

func key(t *testing.T, b byte) *seal.Key {
	t.Helper()
	k, err := seal.New(bytes.Repeat([]byte{b}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSealing(t *testing.T) {
	k := key(t, 1)
	sealed := k.Seal([]byte("secret"), "row/1")
	if bytes.Contains(sealed, []byte("secret")) || bytes.Equal(sealed, k.Seal([]byte("secret"), "row/1")) {
		t.Error("a sealed value should not show its content, nor that two are alike")
	}
	if plain, err := k.Open(sealed, "row/1"); err != nil || string(plain) != "secret" {
		t.Errorf("got %q, %v", plain, err)
	}
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	newer := bytes.Clone(sealed)
	newer[0] = 9
	for name, open := range map[string]func() ([]byte, error){
		"another purpose":   func() ([]byte, error) { return k.Open(sealed, "row/2") },
		"another key":       func() ([]byte, error) { return key(t, 2).Open(sealed, "row/1") },
		"a changed bit":     func() ([]byte, error) { return k.Open(changed, "row/1") },
		"a newer version":   func() ([]byte, error) { return k.Open(newer, "row/1") },
		"nothing":           func() ([]byte, error) { return k.Open(nil, "row/1") },
		"only a first byte": func() ([]byte, error) { return k.Open([]byte{1}, "row/1") },
	} {
		if plain, err := open(); !fault.Is(err, fault.Precondition) {
			t.Errorf("%s: got %q, %v", name, plain, err)
		}
	}
}

func TestDerivedSecretsDifferByPurposeAndKey(t *testing.T) {
	a, b, c := key(t, 1).Derive("x"), key(t, 1).Derive("y"), key(t, 2).Derive("x")
	if bytes.Equal(a, b) || bytes.Equal(a, c) || !bytes.Equal(a, key(t, 1).Derive("x")) {
		t.Errorf("got %x, %x, %x", a, b, c)
	}
}

func TestAKeyDoesNotPrintItself(t *testing.T) {
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(verb, key(t, 7)); s != "[master key]" {
			t.Errorf("%s prints %q", verb, s)
		}
	}
}

func TestMasterKeyFile(t *testing.T) {
	t.Run("it is made once, however many ask", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "master-key")
		derived := make([]string, 8)
		var wg sync.WaitGroup
		for i := range derived {
			wg.Go(func() {
				k, err := seal.LoadOrCreate(path)
				if err != nil {
					t.Error(err)
					return
				}
				derived[i] = string(k.Derive("x"))
			})
		}
		wg.Wait()
		for _, d := range derived {
			if d != derived[0] {
				t.Error("two processes have different keys")
			}
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
			t.Errorf("left behind: %v", left)
		}
	})
	t.Run("a file that is open to others or damaged is refused", func(t *testing.T) {
		for name, row := range map[string]struct {
			text string
			mode os.FileMode
		}{
			"readable by all": {strings.Repeat("ab", 32), 0o644},
			"too short":       {"abcd", 0o600},
			"not hexadecimal": {strings.Repeat("zz", 32), 0o600},
			"empty":           {"", 0o600},
		} {
			path := filepath.Join(t.TempDir(), "master-key")
			if err := os.WriteFile(path, []byte(row.text), row.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, row.mode); err != nil { // whatever the umask
				t.Fatal(err)
			}
			if _, err := seal.LoadOrCreate(path); !fault.Is(err, fault.Precondition) {
				t.Errorf("%s: got %v", name, err)
			}
			if text, _ := os.ReadFile(path); string(text) != row.text {
				t.Errorf("%s: the file was changed", name)
			}
		}
	})
	t.Run("a directory that is not there is an error", func(t *testing.T) {
		if _, err := seal.LoadOrCreate(filepath.Join(t.TempDir(), "no", "master-key")); err == nil {
			t.Error("no error")
		}
	})
}
