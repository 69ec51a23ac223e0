package matchspec

import "strings"

// Canonical prints the canonical form (CEP 29): the name outside of the brackets, an exact version as ==v, a family as
// =v and others in the brackets; an exact build directly after an exact version; channel and subdir in front where
// both are exact. Keys come in a fixed order, the namespace is dropped, licences are in lower case.
func (s *Spec) Canonical() string {
	var b strings.Builder
	var in []string
	channel, channelExact := s.Channel.Exact()
	if channelExact {
		b.WriteString(channel)
	} else if !s.Channel.IsZero() {
		in = append(in, "channel="+quote(s.Channel.String()))
	}
	if subdir := s.Subdir.String(); subdir != "" {
		if _, exact := s.Subdir.Exact(); exact && channelExact {
			b.WriteString("/" + subdir)
		} else {
			in = append(in, "subdir="+quote(subdir))
		}
	}
	if channelExact {
		b.WriteString("::")
	}
	if name := s.Name.String(); name != "" {
		b.WriteString(name)
	} else {
		b.WriteByte('*')
	}
	outside, inside, exact := s.canonicalVersion()
	b.WriteString(outside)
	in = append(in, inside...)
	if build := s.Build.String(); build != "" {
		switch {
		case strings.ContainsAny(build, "><$^|, =-~'\""):
			in = append(in, "build="+quoted(build))
		case exact && !strings.Contains(build, "*"):
			b.WriteString("=" + build)
		default:
			in = append(in, "build="+build)
		}
	}
	in = append(in, s.canonicalRest()...)
	if len(in) > 0 {
		b.WriteString("[" + strings.Join(in, ",") + "]")
	}
	return b.String()
}

// canonicalVersion returns what stands behind the name and what stands in the brackets, and whether the former is an
// exact version that a build may follow.
func (s *Spec) canonicalVersion() (outside string, inside []string, exact bool) {
	v := s.Version.String()
	switch {
	case v == "":
		return "", nil, false
	case strings.ContainsAny(v, "><$^|,()"):
		return "", []string{"version=" + quoted(v)}, false
	case strings.HasPrefix(v, "!="), strings.HasPrefix(v, "~="):
		if !s.Build.IsZero() {
			return "", []string{"version=" + quoted(v)}, false
		}
		return v, nil, false
	case strings.HasPrefix(v, "=="):
		return strings.TrimSuffix(v, ".*"), nil, true // '.*' has no effect here
	case strings.HasPrefix(v, "="):
		return "=" + strings.TrimSuffix(v[1:], ".*"), nil, false
	case strings.HasSuffix(v, ".*"):
		if base := v[:len(v)-2]; !strings.Contains(base, "*") {
			return "=" + base, nil, false
		}
		return "", []string{"version=" + quoted(v)}, false
	case strings.HasSuffix(v, "*"):
		if base := v[:len(v)-1]; !strings.Contains(base, "*") {
			return "=" + base, nil, false
		}
		return "", []string{"version=" + quoted(v)}, false
	}
	return "==" + v, nil, true
}

func (s *Spec) canonicalRest() []string {
	var in []string
	add := func(key, value string) {
		if value != "" {
			in = append(in, key+"="+quote(value))
		}
	}
	add("build_number", s.BuildNumber.String())
	add("track_features", s.TrackFeatures.String())
	add("features", s.Features.String())
	if s.Channel.IsZero() {
		add("url", s.URL) // channel, subdir, version and build say the same
	}
	add("md5", s.MD5)
	add("sha256", s.SHA256)
	add("license", s.License.String())
	add("license_family", s.LicenseFamily.String())
	if s.URL == "" {
		add("fn", s.FileName.String())
	}
	if len(s.Extras) > 0 {
		in = append(in, "extras=['"+strings.Join(s.Extras, "','")+"']")
	}
	if len(s.Flags) > 0 {
		flags := make([]string, len(s.Flags))
		for i, f := range s.Flags {
			flags[i] = f.String()
		}
		in = append(in, "flags=['"+strings.Join(flags, "','")+"']")
	}
	add("when", s.whenText)
	return in
}

func quote(s string) string {
	if strings.ContainsAny(s, ", ='\"[]") {
		return quoted(s)
	}
	return s
}

func quoted(s string) string {
	if strings.Contains(s, "'") {
		return `"` + s + `"`
	}
	return "'" + s + "'"
}
