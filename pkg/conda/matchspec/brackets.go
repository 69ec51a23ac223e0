package matchspec

import (
	"encoding/hex"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// pair is one key=value of the brackets.
type pair struct {
	key   part
	value part
	list  []part // of a [list]
	isSeq bool
}

// brackets takes the [key=value,…] off the end. Quotes protect everything, and inner brackets must balance.
func (p *parser) brackets(s part) (part, []pair, error) {
	open := strings.IndexByte(s.s, '[')
	if open < 0 {
		return s, nil, nil
	}
	end, err := p.balance(s, open)
	if err != nil {
		return s, nil, err
	}
	pairs, err := p.pairs(part{s.s[open+1 : end], s.at + open + 1})
	if err != nil {
		return s, nil, err
	}
	tail := s.from(end + 1).trim()
	if strings.Trim(tail.s, "]") == "" && tail.s != "" {
		if p.opts.Strict {
			return s, nil, p.fail(tail.at, "a closing bracket without an opening one")
		}
		tail.s = ""
	}
	head := s.s[:open]
	if tail.s != "" && !strings.HasPrefix(tail.s, "(") {
		if p.opts.Strict {
			return s, nil, p.fail(tail.at, "nothing may follow the brackets")
		}
		// Some recipes carry the requirement of another ecosystem: "ray[default] >=2".
		head += " "
	}
	if i := strings.IndexAny(tail.s, "[]"); i >= 0 {
		return s, nil, p.fail(tail.at+i, "more than one pair of brackets")
	}
	return part{head + tail.s, s.at}.trim(), pairs, nil
}

// balance returns the index of the bracket that closes the one at open.
func (p *parser) balance(s part, open int) (int, error) {
	depth, quote := 0, byte(0)
	for i := open; i < len(s.s); i++ {
		switch c := s.s[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '[':
			depth++
		case c == ']':
			if depth--; depth == 0 {
				return i, nil
			}
		}
	}
	if quote != 0 {
		return 0, p.fail(s.at+open, "a quotation mark in the brackets is not closed")
	}
	return 0, p.fail(s.at+open, "the bracket is not closed")
}

func isKeyByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

func (p *parser) pairs(s part) ([]pair, error) {
	var out []pair
	i := 0
	for {
		start := i
		for i < len(s.s) && strings.IndexByte(", \t", s.s[i]) >= 0 {
			i++
		}
		if p.opts.Strict && strings.Count(s.s[start:i], ",") > 1 {
			return nil, p.fail(s.at+start, "an empty pair in the brackets")
		}
		if i == len(s.s) {
			if p.opts.Strict && len(out) == 0 {
				return nil, p.fail(s.at, "the brackets are empty")
			}
			return out, nil
		}
		at := i
		for i < len(s.s) && isKeyByte(s.s[i]) {
			i++
		}
		key := part{s.s[at:i], s.at + at}
		for i < len(s.s) && s.s[i] == ' ' {
			i++
		}
		if key.s == "" || i == len(s.s) || s.s[i] != '=' {
			if p.opts.Strict {
				return nil, p.fail(s.at+at, "a pair must be written key=value")
			}
			// conda steps over what is no pair.
			for i < len(s.s) && strings.IndexByte(", ", s.s[i]) < 0 {
				i++
			}
			continue
		}
		i++
		for i < len(s.s) && s.s[i] == ' ' {
			i++
		}
		next, kv, err := p.value(s, i)
		if err != nil {
			return nil, err
		}
		kv.key = key
		out, i = append(out, kv), next
	}
}

// value reads the value at s.s[i:] and returns the offset behind it.
func (p *parser) value(s part, i int) (int, pair, error) {
	if i < len(s.s) && (s.s[i] == '\'' || s.s[i] == '"') {
		n := strings.IndexByte(s.s[i+1:], s.s[i])
		if n < 0 {
			return 0, pair{}, p.fail(s.at+i, "the quotation mark is not closed")
		}
		return i + n + 2, pair{value: part{s.s[i+1 : i+1+n], s.at + i + 1}}, nil
	}
	if i < len(s.s) && s.s[i] == '[' {
		end, err := p.balance(s, i)
		if err != nil {
			return 0, pair{}, err
		}
		list, err := p.list(part{s.s[i+1 : end], s.at + i + 1})
		return end + 1, pair{value: part{s.s[i : end+1], s.at + i}, list: list, isSeq: true}, err
	}
	n := strings.IndexAny(s.s[i:], ", ")
	if n < 0 {
		n = len(s.s) - i
	}
	return i + n, pair{value: part{s.s[i : i+n], s.at + i}}, nil
}

// list reads the inside of a YAML flow list of plain or quoted scalars.
func (p *parser) list(s part) ([]part, error) {
	var out []part
	at := s.at
	for item := range strings.SplitSeq(s.s, ",") {
		it := part{item, at}.trim()
		at += len(item) + 1
		if n := len(it.s); n >= 2 && (it.s[0] == '\'' || it.s[0] == '"') && it.s[n-1] == it.s[0] {
			it = part{it.s[1 : n-1], it.at + 1}
		}
		if it.s == "" {
			return nil, p.fail(it.at, "an empty entry in the list")
		}
		out = append(out, it)
	}
	return out, nil
}

// apply sets the fields that the brackets name; they override the positional part.
func (p *parser) apply(spec *Spec, pairs []pair) error {
	seen := map[string]bool{}
	for _, kv := range pairs {
		key := kv.key.s
		if seen[key] && p.opts.Strict {
			return p.fail(kv.key.at, "the key %q stands twice", key)
		}
		seen[key] = true
		if kv.isSeq && key != "extras" && key != "flags" {
			return p.fail(kv.value.at, "%s takes no list", key)
		}
		if err := p.set(spec, kv); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) set(spec *Spec, kv pair) (err error) {
	v := kv.value.s
	pattern := func(dst *Pattern, s string) {
		if s == "" {
			err = p.fail(kv.value.at, "%s is empty", kv.key.s)
			return
		}
		var cause error
		if *dst, cause = ParsePattern(s); cause != nil {
			err = p.fail(kv.value.at, "%s: %v", kv.key.s, cause)
		}
	}
	switch kv.key.s {
	case "version":
		if spec.Version = (version.Spec{}); v == "" {
			return p.fail(kv.value.at, "version is empty")
		}
		err = p.version(spec, part{stripSpaces(v), kv.value.at})
	case "build":
		if spec.Build = (Pattern{}); v != "*" {
			pattern(&spec.Build, v)
		}
	case "build_number":
		var cause error
		if spec.BuildNumber, cause = ParseNumbers(v); cause != nil {
			err = p.fail(kv.value.at, "build_number: %v", cause)
		}
	case "channel":
		if spec.Channel = (Pattern{}); v != "*" {
			pattern(&spec.Channel, p.channelName(strings.TrimRight(v, "/")))
		}
	case "subdir":
		if spec.Subdir = (Pattern{}); v != "*" {
			pattern(&spec.Subdir, v)
		}
	case "fn":
		pattern(&spec.FileName, v)
	case "url":
		if spec.URL = v; v == "" {
			err = p.fail(kv.value.at, "url is empty")
		}
	case "md5":
		spec.MD5, err = p.digest(kv, 16)
	case "sha256":
		spec.SHA256, err = p.digest(kv, 32)
	case "license":
		pattern(&spec.License, lowerASCII(v))
	case "license_family":
		pattern(&spec.LicenseFamily, lowerASCII(v))
	case "features":
		pattern(&spec.Features, v)
	case "track_features":
		pattern(&spec.TrackFeatures, v)
	case "namespace":
		spec.Namespace = v
	case "extras":
		spec.Extras, err = p.extras(kv)
	case "flags":
		spec.Flags, err = p.flags(kv)
	case "when":
		err = p.when(spec, kv.value)
	default:
		err = p.fail(kv.key.at, "there is no key %q", kv.key.s)
	}
	return err
}

func (p *parser) digest(kv pair, size int) (string, error) {
	v := lowerASCII(kv.value.s)
	if b, err := hex.DecodeString(v); v == "" || p.opts.Strict && (err != nil || len(b) != size) {
		return "", p.fail(kv.value.at, "%s must have %d hexadecimal digits", kv.key.s, 2*size)
	}
	return v, nil
}

func (kv pair) items() []part {
	if kv.isSeq {
		return kv.list
	}
	return []part{kv.value}
}

// extras reads the names of dependency groups (CEP 44).
func (p *parser) extras(kv pair) ([]string, error) {
	var out []string
	for _, it := range kv.items() {
		bad := strings.IndexFunc(it.s, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("_.+-", r))
		})
		if it.s == "" || len(it.s) > 64 || bad >= 0 {
			return nil, p.fail(it.at+max(bad, 0), "%q is no name of a dependency group", it.s)
		}
		out = append(out, it.s)
	}
	return out, nil
}

// flags reads variant flags (CEP 45), "cuda" or "gpu:*".
func (p *parser) flags(kv pair) ([]Pattern, error) {
	var out []Pattern
	for _, it := range kv.items() {
		colons := 0
		bad := strings.IndexFunc(it.s, func(r rune) bool {
			if r == ':' {
				colons++
				return colons > 1
			}
			return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' || r == '*')
		})
		if it.s == "" || bad >= 0 || it.s[0] == ':' || it.s[len(it.s)-1] == ':' {
			return nil, p.fail(it.at+max(bad, 0), "%q is no flag", it.s)
		}
		flag, err := ParsePattern(it.s)
		if err != nil {
			return nil, p.fail(it.at, "flags: %v", err)
		}
		out = append(out, flag)
	}
	return out, nil
}
