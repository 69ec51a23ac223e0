package virtual

import (
	"bufio"
	"strings"
)

// microarchitecture is a line of the archspec database: a processor is one if it has the features and is made by the
// vendor (or by any, for the generic levels).
type microarchitecture struct {
	name     string
	vendor   string
	parent   string
	features string
}

// x86 lists microarchitectures, each after its parent. A machine is the last one it fits. The features are the words
// of /proc/cpuinfo; a child has those of its parent, too.
var x86 = []microarchitecture{
	{"x86_64", "", "", ""},
	{"x86_64_v2", "", "x86_64", "cx16 lahf_lm mmx sse sse2 ssse3 sse4_1 sse4_2 popcnt"},
	{"x86_64_v3", "", "x86_64_v2", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"},
	{"x86_64_v4", "", "x86_64_v3", "avx512f avx512bw avx512cd avx512dq avx512vl"},

	{"nehalem", "GenuineIntel", "x86_64_v2", ""},
	{"westmere", "GenuineIntel", "nehalem", "aes pclmulqdq"},
	{"sandybridge", "GenuineIntel", "westmere", "avx"},
	{"ivybridge", "GenuineIntel", "sandybridge", "rdrand f16c"},
	{"haswell", "GenuineIntel", "ivybridge", "movbe fma avx2 bmi1 bmi2 abm xsave"},
	{"broadwell", "GenuineIntel", "haswell", "rdseed adx"},
	{"skylake", "GenuineIntel", "broadwell", "clflushopt xsavec xsaveopt"},
	{"skylake_avx512", "GenuineIntel", "skylake", "avx512f avx512bw avx512cd avx512dq avx512vl clwb"},
	{"cascadelake", "GenuineIntel", "skylake_avx512", "avx512_vnni"},
	{"icelake", "GenuineIntel", "cascadelake", "avx512vbmi avx512ifma sha_ni avx512_vbmi2 gfni vaes vpclmulqdq avx512_bitalg avx512_vpopcntdq"},
	{"sapphirerapids", "GenuineIntel", "icelake", "avx512_bf16 avx512_fp16 amx_bf16 amx_tile amx_int8 serialize cldemote movdiri movdir64b"},

	{"zen", "AuthenticAMD", "x86_64_v3", "fsgsbase rdseed clzero aes pclmulqdq sse4a xsavec xsaveopt clflushopt"},
	{"zen2", "AuthenticAMD", "zen", "clwb"},
	{"zen3", "AuthenticAMD", "zen2", "vaes vpclmulqdq pku"},
	{"zen4", "AuthenticAMD", "zen3", "avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni avx512_bf16 avx512vbmi avx512ifma avx512_vbmi2 gfni avx512_bitalg avx512_vpopcntdq"},
	{"zen5", "AuthenticAMD", "zen4", "avx_vnni movdiri movdir64b avx512_vp2intersect"},
}

// arm maps implementer and part of /proc/cpuinfo to names of the archspec database.
var arm = map[[2]string]string{
	{"0x41", "0xd08"}: "cortex_a72",
	{"0x41", "0xd0c"}: "neoverse_n1",
	{"0x41", "0xd40"}: "neoverse_v1",
	{"0x41", "0xd49"}: "neoverse_n2",
	{"0x41", "0xd4f"}: "neoverse_v2",
	{"0x43", "0x0af"}: "thunderx2",
	{"0x46", "0x001"}: "a64fx",
}

// microarchitecture names the processor, or returns "" if it is unknown.
func (h Host) microarchitecture() string {
	info := firstProcessor(h.read("proc/cpuinfo", 64<<10))
	switch h.Platform {
	case "linux-64":
		if info["flags"] == "" {
			return ""
		}
		return x86Name(info["vendor_id"], strings.Fields(info["flags"]))
	case "linux-aarch64":
		if info["CPU implementer"] == "" {
			return ""
		}
		if name, ok := arm[[2]string{info["CPU implementer"], info["CPU part"]}]; ok {
			return name
		}
		return "aarch64"
	}
	return ""
}

func x86Name(vendor string, flags []string) string {
	have := make(map[string]bool, len(flags))
	for _, f := range flags {
		have[f] = true
	}
	fits := map[string]bool{"": true}
	best := ""
	for _, m := range x86 {
		ok := fits[m.parent] && (m.vendor == "" || m.vendor == vendor)
		for f := range strings.FieldsSeq(m.features) {
			ok = ok && have[f]
		}
		if ok {
			fits[m.name] = true
			best = m.name
		}
	}
	return best
}

// firstProcessor reads the first paragraph of /proc/cpuinfo.
func firstProcessor(text string) map[string]string {
	info := map[string]string{}
	sc := bufio.NewScanner(strings.NewReader(text))
	sc.Buffer(nil, 64<<10)
	for sc.Scan() {
		key, value, ok := strings.Cut(sc.Text(), ":")
		if !ok {
			break
		}
		info[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return info
}
