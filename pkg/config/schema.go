package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// tag names a field's key; koanf decodes by it.
const tag = "koanf"

var (
	durationType  = reflect.TypeFor[time.Duration]()
	secretType    = reflect.TypeFor[Secret]()
	unmarshalType = reflect.TypeFor[encoding.TextUnmarshaler]()
	stringMapType = reflect.TypeFor[map[string]string]()
)

// schema is the tree of keys of a struct.
type schema struct {
	key      string // of the whole path, with dots; empty at the root
	typ      reflect.Type
	index    []int              // path of fields from the root struct
	children map[string]*schema // nil for a leaf
	order    []string           // children as the struct declares them
	entry    reflect.Type       // of a mapping of structs: what each entry is; its children come with their names
}

// child returns what a name below s stands for, or nil. A mapping of structs has a child of every name that can be one.
func (s *schema) child(name string) *schema {
	if c := s.children[name]; c != nil || s.entry == nil || !entryName(name) {
		return c
	}
	c := &schema{key: s.key + "." + name, typ: s.entry}
	if c.addFields(s.entry, nil) != nil {
		return nil // not reached: newSchema has tried it
	}
	c.leaves(func(leaf *schema) { leaf.index = s.index }) // for what is inside a map there is no index
	s.children[name] = c
	s.order = append(s.order, name)
	return c
}

// entryName reports whether a name can be an entry's: one that keys and variables can spell.
func entryName(name string) bool {
	return name != "" && len(name) <= 64 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") == "" && !strings.Contains(name, "__") &&
		!strings.HasPrefix(name, "_") && !strings.HasSuffix(name, "_")
}

// leaves calls f for each leaf, in the order of declaration.
func (s *schema) leaves(f func(*schema)) {
	if s.children == nil {
		f(s)
		return
	}
	for _, name := range s.order {
		s.children[name].leaves(f)
	}
}

// find returns what a dotted key names, or nil.
func (s *schema) find(key string) *schema {
	for name := range strings.SplitSeq(key, ".") {
		if s = s.child(name); s == nil {
			return nil
		}
	}
	return s
}

// newSchema reads the keys of a struct type. A field without a usable tag or of a type we cannot fill is a programmer's
// mistake, and an error so that a test of the defaults finds it.
func newSchema(t reflect.Type) (*schema, error) {
	if t.Kind() != reflect.Struct {
		return nil, fault.New(fault.Internal, "configuration %s is not a struct", t)
	}
	s := &schema{typ: t}
	return s, s.addFields(t, nil)
}

func (s *schema) addFields(t reflect.Type, index []int) error {
	if s.children == nil {
		s.children = map[string]*schema{}
	}
	for f := range t.Fields() {
		if !f.IsExported() {
			continue
		}
		path := append(index[:len(index):len(index)], f.Index...)
		name, options, _ := strings.Cut(f.Tag.Get(tag), ",")
		switch {
		case name == "-":
			continue
		case name == "" && options == "squash":
			if err := s.addFields(f.Type, path); err != nil {
				return err
			}
			continue
		case name == "" || strings.ContainsAny(name, ". ") || strings.Contains(name, "__") || name != strings.ToLower(name):
			return fault.New(fault.Internal, "field %s.%s needs a tag such as `koanf:\"data_dir\"`", t, f.Name)
		case s.children[name] != nil:
			return fault.New(fault.Internal, "two fields of %s have the key %s", t, name)
		}
		child := &schema{key: strings.TrimPrefix(s.key+"."+name, "."), typ: f.Type, index: path}
		switch {
		case isLeaf(f.Type):
		case f.Type.Kind() == reflect.Map && f.Type.Key().Kind() == reflect.String && f.Type.Elem().Kind() == reflect.Struct:
			child.children, child.entry = map[string]*schema{}, f.Type.Elem()
			if _, err := newSchema(child.entry); err != nil {
				return err
			}
		case f.Type.Kind() == reflect.Struct:
			if err := child.addFields(f.Type, path); err != nil {
				return err
			}
		default:
			return fault.New(fault.Internal, "field %s.%s has the type %s, which configuration cannot fill", t, f.Name, f.Type)
		}
		s.children[name] = child
		s.order = append(s.order, name)
	}
	return nil
}

func isLeaf(t reflect.Type) bool {
	return isScalar(t) || t == stringMapType || t.Kind() == reflect.Slice && isScalar(t.Elem())
}

func isScalar(t reflect.Type) bool {
	if isText(t) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	}
	return false
}

// isText reports whether the type reads itself from text.
func isText(t reflect.Type) bool { return reflect.PointerTo(t).Implements(unmarshalType) }

// nearest returns "; did you mean x?" for the candidate that is closest to the mistake, or nothing if none is close.
func nearest(mistake string, candidates []string) string {
	best, bound := "", max(2, len(mistake)/3)+1
	for _, c := range candidates {
		if d := distance(mistake, c); d < bound {
			best, bound = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// distance counts the insertions, deletions, substitutions and swaps of neighbours that make b of a.
func distance(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			change := 1
			if a[i] == b[j] {
				change = 0
			}
			next[j+1] = min(row[j+1]+1, next[j]+1, row[j]+change)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
