package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// fileReader walks a YAML file along the schema.
type fileReader struct {
	layer   *layer
	file    string
	anchors map[string]ast.Node
	secrets bool // the file holds at least one
}

// readFile adds the values of a YAML file.
func (l *layer) readFile(path string, s *schema) []Warning {
	b, err := os.ReadFile(path)
	if err != nil {
		l.fail("", path, "%v", err)
		return nil
	}
	f, err := parser.ParseBytes(b, 0)
	if err != nil {
		var at yaml.Error
		if errors.As(err, &at) && at.GetToken() != nil {
			l.fail("", place(path, at.GetToken()), "%s", at.GetMessage())
		} else {
			l.fail("", path, "%v", err)
		}
		return nil
	}
	r := &fileReader{layer: l, file: path, anchors: map[string]ast.Node{}}
	documents := 0
	for _, doc := range f.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.NullType {
			continue
		}
		if documents++; documents > 1 {
			l.fail("", r.at(doc.Body), "the file holds more than one document")
			break
		}
		r.mapping(doc.Body, s)
	}
	if info, err := os.Stat(path); err == nil && r.secrets && info.Mode().Perm()&0o004 != 0 {
		return []Warning{{Source: path, Message: "holds a secret and can be read by everyone: chmod o-r"}}
	}
	return nil
}

func place(file string, t *token.Token) string {
	return fmt.Sprintf("%s:%d:%d", file, t.Position.Line, t.Position.Column)
}

func (r *fileReader) at(n ast.Node) string {
	// A mapping's own token is a colon; its first key says more.
	switch m := n.(type) {
	case *ast.MappingNode:
		if len(m.Values) > 0 {
			n = m.Values[0].Key
		}
	case *ast.MappingValueNode:
		n = m.Key
	}
	return place(r.file, n.GetToken())
}

// resolve follows anchors, aliases and tags to the value itself.
func (r *fileReader) resolve(n ast.Node) ast.Node {
	for range 100 { // an alias cannot refer to itself, but who knows
		switch x := n.(type) {
		case *ast.AnchorNode:
			r.anchors[x.Name.GetToken().Value] = x.Value
			n = x.Value
		case *ast.AliasNode:
			target, ok := r.anchors[x.Value.GetToken().Value]
			if !ok {
				return n
			}
			n = target
		case *ast.TagNode:
			n = x.Value
		default:
			return n
		}
	}
	return n
}

func pairs(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch m := n.(type) {
	case *ast.MappingNode:
		return m.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{m}, true
	}
	return nil, false
}

func (r *fileReader) mapping(n ast.Node, s *schema) {
	n = r.resolve(n)
	values, ok := pairs(n)
	if !ok {
		r.layer.fail(s.key, r.at(n), "want a mapping with the keys %v", s.order)
		return
	}
	for _, kv := range values {
		name := kv.Key.GetToken().Value
		child := s.child(name)
		switch {
		case child == nil && s.entry != nil:
			r.layer.fail(s.key+"."+name, place(r.file, kv.Key.GetToken()), "%q%s cannot be a name: use lower-case letters, digits, - and _", name, under(s))
		case child == nil:
			r.layer.fail(s.key+"."+name, place(r.file, kv.Key.GetToken()), "unknown key %q%s%s", name, under(s), nearest(name, s.order))
		case child.children != nil:
			if v := r.resolve(kv.Value); v.Type() != ast.NullType { // "sync:" with everything below commented out
				r.mapping(kv.Value, child)
			}
		default:
			r.leaf(kv.Value, child)
		}
	}
}

func under(s *schema) string {
	if s.key == "" {
		return ""
	}
	return " under " + s.key
}

func (r *fileReader) leaf(n ast.Node, s *schema) {
	n = r.resolve(n)
	if n.Type() == ast.NullType {
		return // "key:" without a value leaves the default
	}
	v, err := r.value(n)
	if err != nil {
		r.layer.fail(s.key, r.at(n), "%s: %v", s.key, err)
		return
	}
	if s.typ == secretType {
		r.secrets = true
	}
	r.layer.set(s, v, r.at(n))
}

// value returns text for a scalar, as it stands in the source so that 0123 stays 0123 where text is wanted; and lists
// and mappings of text.
func (r *fileReader) value(n ast.Node) (any, error) {
	if text, ok := scalar(n); ok {
		return text, nil
	}
	if seq, ok := n.(*ast.SequenceNode); ok {
		list := make([]string, 0, len(seq.Values))
		for _, item := range seq.Values {
			text, ok := scalar(r.resolve(item))
			if !ok {
				return nil, errors.New("want a list of plain values")
			}
			list = append(list, text)
		}
		return list, nil
	}
	if kvs, ok := pairs(n); ok {
		m := make(map[string]string, len(kvs))
		for _, kv := range kvs {
			text, ok := scalar(r.resolve(kv.Value))
			if !ok {
				return nil, errors.New("want a mapping to plain values")
			}
			m[kv.Key.GetToken().Value] = text
		}
		return m, nil
	}
	return nil, fmt.Errorf("cannot use a %s here", n.Type())
}

func scalar(n ast.Node) (string, bool) {
	switch x := n.(type) {
	case *ast.StringNode:
		return x.Value, true
	case *ast.LiteralNode:
		return x.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// Show returns the configuration as YAML, with secrets redacted. Given to Load as a file it yields the same values again,
// secrets aside.
func Show[T any](cfg T) ([]byte, error) {
	s, v, err := schemaOf(&cfg)
	if err != nil {
		return nil, err
	}
	return yaml.MarshalWithOptions(show(s, v), yaml.IndentSequence(true))
}

func show(s *schema, root reflect.Value) any {
	if s.children == nil {
		return showLeaf(root.FieldByIndex(s.index))
	}
	if s.entry != nil {
		m, v := yaml.MapSlice{}, root.FieldByIndex(s.index)
		entry, err := newSchema(s.entry)
		if err != nil {
			return nil // not reached: the whole schema holds it
		}
		names := make([]string, 0, v.Len())
		for _, k := range v.MapKeys() {
			names = append(names, k.String())
		}
		slices.Sort(names)
		for _, name := range names {
			m = append(m, yaml.MapItem{Key: name, Value: show(entry, v.MapIndex(reflect.ValueOf(name).Convert(v.Type().Key())))})
		}
		return m
	}
	m := make(yaml.MapSlice, 0, len(s.order))
	for _, name := range s.order {
		m = append(m, yaml.MapItem{Key: name, Value: show(s.children[name], root)})
	}
	return m
}

func sortedMap(m map[string]string) yaml.MapSlice {
	out := yaml.MapSlice{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, yaml.MapItem{Key: k, Value: m[k]})
	}
	return out
}
