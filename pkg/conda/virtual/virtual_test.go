package virtual

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

const haswell = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu mmx sse sse2 ssse3 sse4_1 sse4_2 popcnt cx16 lahf_lm aes " +
	"pclmulqdq avx rdrand f16c movbe fma avx2 bmi1 bmi2 abm xsave\n\nprocessor\t: 1\n"

func machine() fstest.MapFS {
	return fstest.MapFS{
		"proc/sys/kernel/osrelease":      {Data: []byte("6.8.0-45-generic\n")},
		"proc/cpuinfo":                   {Data: []byte(haswell)},
		"lib/x86_64-linux-gnu/libc.so.6": {Data: []byte(strings.Repeat("\x7fELF", 70_000) + "GNU C Library (Ubuntu GLIBC 2.39-0ubuntu8) stable release version 2.39.\nCopyright")},
	}
}

func env(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, p := range pairs {
			if k, v, _ := strings.Cut(p, "="); k == name {
				return v, true
			}
		}
		return "", false
	}
}

func detect(t *testing.T, h Host, target string) string {
	t.Helper()
	ps, err := h.Detect(target)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range ps {
		if err := p.Validate(); err != nil {
			t.Error(err)
		}
		out = append(out, p.String())
	}
	return strings.Join(out, " ")
}

func TestALinuxMachineIsRead(t *testing.T) {
	h := Host{Platform: "linux-64", Root: machine()}
	want := "__archspec=1=haswell __glibc=2.39=0 __linux=6.8.0=0 __unix=0=0"
	if diff := cmp.Diff(want, detect(t, h, "linux-64")); diff != "" {
		t.Error(diff)
	}
}

func TestTheDriverTellsTheCudaVersion(t *testing.T) {
	root := machine()
	for text, want := range map[string]string{
		"NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version: 12.3\n": "12.2",
		"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n":                           "12.8",
		"NVRM version: NVIDIA UNIX x86_64 Kernel Module  999.1  \n":                                                     "13.0",
		"NVRM version: NVIDIA UNIX x86_64 Kernel Module  340.108  \n":                                                   "",
		"nothing": "",
	} {
		root["proc/driver/nvidia/version"] = &fstest.MapFile{Data: []byte(text)}
		got := ""
		if _, after, ok := strings.Cut(detect(t, Host{Platform: "linux-64", Root: root}, "linux-64"), "__cuda="); ok {
			got, _, _ = strings.Cut(after, "=")
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestMuslHasNoGlibc(t *testing.T) {
	root := machine()
	delete(root, "lib/x86_64-linux-gnu/libc.so.6")
	root["lib/ld-musl-x86_64.so.1"] = &fstest.MapFile{}
	if got := detect(t, Host{Platform: "linux-64", Root: root}, "linux-64"); strings.Contains(got, "__glibc") {
		t.Errorf("got %s", got)
	}
}

func TestUnknownFactsFallBack(t *testing.T) {
	want := "__archspec=0=x86_64 __glibc=2.17=0 __linux=0=0 __unix=0=0"
	for _, root := range []fstest.MapFS{nil, {}} {
		h := Host{Platform: "linux-64"}
		if root != nil {
			h.Root = root
		}
		if diff := cmp.Diff(want, detect(t, h, "linux-64")); diff != "" {
			t.Error(diff)
		}
	}
}

func TestOverridesReplaceRemoveAndAdd(t *testing.T) {
	h := Host{Platform: "linux-64", Root: machine()}
	for _, c := range []struct{ env, want string }{
		{"CONDA_OVERRIDE_GLIBC=2.28", "__archspec=1=haswell __glibc=2.28=0 __linux=6.8.0=0 __unix=0=0"},
		{"CONDA_OVERRIDE_GLIBC=", "__archspec=1=haswell __linux=6.8.0=0 __unix=0=0"},
		{"CONDA_OVERRIDE_CUDA=12.4", "__archspec=1=haswell __cuda=12.4=0 __glibc=2.39=0 __linux=6.8.0=0 __unix=0=0"},
		{"CONDA_OVERRIDE_CUDA=", "__archspec=1=haswell __glibc=2.39=0 __linux=6.8.0=0 __unix=0=0"},
		{"CONDA_OVERRIDE_CUDA_ARCH=8.6", "__archspec=1=haswell __glibc=2.39=0 __linux=6.8.0=0 __unix=0=0"},
		{"CONDA_OVERRIDE_ARCHSPEC=zen3", "__archspec=1=zen3 __glibc=2.39=0 __linux=6.8.0=0 __unix=0=0"},
		{"CONDA_OVERRIDE_ARCHSPEC=", "__archspec=0=x86_64 __glibc=2.39=0 __linux=6.8.0=0 __unix=0=0"},
		{"CONDA_OVERRIDE_LINUX=5.10", "__archspec=1=haswell __glibc=2.39=0 __linux=5.10=0 __unix=0=0"},
		{"CONDA_OVERRIDE_OSX=13.0", "__archspec=1=haswell __glibc=2.39=0 __linux=6.8.0=0 __unix=0=0"},
		{"CONDA_OVERRIDE_UNIX=1", "__archspec=1=haswell __glibc=2.39=0 __linux=6.8.0=0 __unix=0=0"},
	} {
		h.LookupEnv = env(c.env)
		if diff := cmp.Diff(c.want, detect(t, h, "linux-64")); diff != "" {
			t.Errorf("%s: %s", c.env, diff)
		}
	}
	h.LookupEnv = env("CONDA_OVERRIDE_CUDA=12.4", "CONDA_OVERRIDE_CUDA_ARCH=8.6")
	if got := detect(t, h, "linux-64"); !strings.Contains(got, "__cuda=12.4=0 __cuda_arch=8.6=0") {
		t.Errorf("got %s", got)
	}
}

func TestOverridesOfAnotherPlatformAreIgnored(t *testing.T) {
	h := Host{Platform: "linux-64", Root: machine(), LookupEnv: env("CONDA_OVERRIDE_GLIBC=2.5", "CONDA_OVERRIDE_CUDA=12.4")}
	for target, want := range map[string]string{
		"linux-aarch64":     "__archspec=0=aarch64 __glibc=2.17=0 __linux=0=0 __unix=0=0",
		"osx-arm64":         "__archspec=0=m1 __osx=0=0 __unix=0=0",
		"win-64":            "__archspec=0=x86_64 __win=0=0",
		"emscripten-wasm32": "__archspec=0=wasm32 __unix=0=0",
		"noarch":            "__archspec=0=0",
	} {
		if diff := cmp.Diff(want, detect(t, h, target)); diff != "" {
			t.Errorf("%s: %s", target, diff)
		}
	}
}

func TestSenselessOverridesAreNamed(t *testing.T) {
	for _, e := range []string{
		"CONDA_OVERRIDE_CUDA=twelve", "CONDA_OVERRIDE_LINUX=5.10-generic", "CONDA_OVERRIDE_GLIBC=2!!8",
		"CONDA_OVERRIDE_ARCHSPEC=a/b",
	} {
		_, err := Host{Platform: "linux-64", LookupEnv: env(e)}.Detect("linux-64")
		var oe *OverrideError
		if !errors.As(err, &oe) || !strings.HasPrefix(e, oe.Variable+"="+oe.Value) {
			t.Errorf("%s: got %v", e, err)
		}
	}
}

func TestParseReadsWhatLockfilesSay(t *testing.T) {
	for in, want := range map[string]Package{
		"__unix":              {"__unix", "0", "0"},
		"__glibc=2.28":        {"__glibc", "2.28", "0"},
		"__archspec=0=x86_64": {"__archspec", "0", "x86_64"},
	} {
		got, err := Parse(in)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	for _, in := range []string{"", "glibc=2", "__glibc=", "__glibc=1=2=3", "__glibc=1=/"} {
		if p, err := Parse(in); err == nil {
			t.Errorf("%q: got %v", in, p)
		}
	}
}

func TestProcessorsAreNamedByTheirFeatures(t *testing.T) {
	v3 := "mmx sse sse2 ssse3 sse4_1 sse4_2 popcnt cx16 lahf_lm avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
	for _, c := range []struct{ vendor, flags, want string }{
		{"GenuineIntel", "", "x86_64"},
		{"Other", v3, "x86_64_v3"},
		{"AuthenticAMD", v3, "x86_64_v3"},
		{"AuthenticAMD", v3 + " fsgsbase rdseed clzero aes pclmulqdq sse4a xsavec xsaveopt clflushopt clwb", "zen2"},
		{"Other", v3 + " avx512f avx512bw avx512cd avx512dq avx512vl", "x86_64_v4"},
	} {
		if got := x86Name(c.vendor, strings.Fields(c.flags)); got != c.want {
			t.Errorf("%s %q: got %s, want %s", c.vendor, c.flags, got, c.want)
		}
	}
}
