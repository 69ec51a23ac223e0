package lock

import (
	"bytes"
	"errors"
	"testing"
)

// checkError fails unless an error is one of this package and its place is in the text.
func checkError(t *testing.T, data []byte, err error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %#v", err)
	}
	if e.Line < 0 || e.Column < 0 || e.Line > bytes.Count(data, []byte("\n"))+bytes.Count(data, []byte("\r"))+1 {
		t.Fatalf("%v: at %d:%d of %q", err, e.Line, e.Column, data)
	}
}

func FuzzParsePixi(f *testing.F) {
	f.Add([]byte("version: 6\nenvironments:\n  default:\n    channels:\n    - url: https://h/c/\n    packages:\n      linux-64:\n      - conda: https://h/c/noarch/a-1-0.conda\npackages:\n- conda: https://h/c/noarch/a-1-0.conda\n  sha256: \"00\"\n"))
	f.Add([]byte("version: 7\nplatforms:\n- name: linux-64\n  virtual-packages: [__glibc=2.28]\nenvironments: {}\npackages: []\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := ParsePixi(data)
		if err != nil {
			checkError(t, data, err)
			return
		}
		for _, env := range l.Environments() {
			for _, platform := range l.Platforms(env) {
				l.Subdir(platform)
				l.VirtualPackages(platform)
				_, _ = l.Packages(env, platform)
			}
			l.Channels(env)
		}
		once := l.Bytes()
		again, err := ParsePixi(once)
		if err != nil {
			t.Fatalf("written as %q: %v", once, err)
		}
		if twice := again.Bytes(); !bytes.Equal(once, twice) {
			t.Fatalf("%q becomes %q", once, twice)
		}
	})
}

func FuzzParseCondaLock(f *testing.F) {
	f.Add([]byte("version: 1\nmetadata:\n  content_hash:\n    linux-64: \"00\"\n  channels:\n  - url: c\n    used_env_vars: []\n  platforms:\n  - linux-64\n  sources:\n  - a\npackage:\n- name: a\n  version: '1'\n  manager: conda\n  platform: linux-64\n  dependencies: {}\n  url: https://h/c/noarch/a-1-0.conda\n  hash:\n    md5: x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := ParseCondaLock(data)
		if err != nil {
			checkError(t, data, err)
			return
		}
		l.Channels()
		for _, platform := range l.Platforms() {
			_, _ = l.Packages(platform, l.Categories()...)
		}
		once := l.Bytes()
		again, err := ParseCondaLock(once)
		if err != nil {
			t.Fatalf("written as %q: %v", once, err)
		}
		if twice := again.Bytes(); !bytes.Equal(once, twice) {
			t.Fatalf("%q becomes %q", once, twice)
		}
	})
}

func FuzzParseExplicit(f *testing.F) {
	f.Add([]byte("# platform: linux-64\n@EXPLICIT\nhttps://h/c/noarch/a-1-0.conda#0123456789abcdef0123456789abcdef\n"))
	f.Add([]byte("@EXPLICIT\nfile:///a/noarch/b-1-0.tar.bz2#sha256:00\n./x-1-0.conda\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := ParseExplicit(data)
		if err != nil {
			checkError(t, data, err)
			return
		}
		once := l.Bytes()
		again, err := ParseExplicit(once)
		if err != nil {
			t.Fatalf("%q is written as %q: %v", data, once, err)
		}
		if twice := again.Bytes(); !bytes.Equal(once, twice) {
			t.Fatalf("%q becomes %q", once, twice)
		}
	})
}
