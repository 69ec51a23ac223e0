package yamltree

import (
	"fmt"
	"slices"
	"strconv"
)

// Str makes a string.
func Str(s string) *Node { return &Node{Kind: String, Text: s} }

// Int makes a number.
func Int(n int64) *Node { return &Node{Kind: Other, Text: strconv.FormatInt(n, 10)} }

// Bool makes a truth value.
func Bool(b bool) *Node { return &Node{Kind: Other, Text: strconv.FormatBool(b)} }

// Strs makes a list of strings.
func Strs(list []string) *Node {
	n := &Node{Kind: List}
	for _, s := range list {
		n.Items = append(n.Items, Str(s))
	}
	return n
}

// NewMap makes an empty map.
func NewMap() *Node { return &Node{Kind: Map} }

// Add appends a field to a map and returns the map.
func (n *Node) Add(key string, value *Node) *Node {
	n.Fields = append(n.Fields, Field{Key: key, Value: value})
	return n
}

// Get returns the value of a key, or nil if n is no map or lacks it.
func (n *Node) Get(key string) *Node {
	if n == nil {
		return nil
	}
	for i := range n.Fields {
		if n.Fields[i].Key == key {
			return n.Fields[i].Value
		}
	}
	return nil
}

// Set replaces the value of a key, or adds it.
func (n *Node) Set(key string, value *Node) {
	for i := range n.Fields {
		if n.Fields[i].Key == key {
			n.Fields[i].Value = value
			return
		}
	}
	n.Add(key, value)
}

// Delete takes a key out.
func (n *Node) Delete(key string) {
	n.Fields = slices.DeleteFunc(n.Fields, func(f Field) bool { return f.Key == key })
}

// IsNull reports whether there is no value.
func (n *Node) IsNull() bool { return n == nil || n.Kind == Null }

// Errorf returns an error that points at the node.
func (n *Node) Errorf(format string, args ...any) *Error {
	e := &Error{Msg: fmt.Sprintf(format, args...)}
	if n != nil {
		e.Line, e.Column = n.Line, n.Column
	}
	return e
}

// Scalar returns the text of a scalar: writers leave numbers unquoted that readers mean as strings (version: 1.10).
func (n *Node) Scalar(what string) (string, error) {
	if n == nil || n.Kind != String && n.Kind != Other {
		return "", n.Errorf("%s must be a string", what)
	}
	return n.Text, nil
}

// Int64 returns a whole number.
func (n *Node) Int64(what string) (int64, error) {
	if n != nil && n.Kind == Other {
		if v, err := strconv.ParseInt(n.Text, 10, 64); err == nil {
			return v, nil
		}
	}
	return 0, n.Errorf("%s must be a whole number", what)
}

// Strings returns a list of scalars; null is an empty one.
func (n *Node) Strings(what string) ([]string, error) {
	if n.IsNull() {
		return nil, nil
	}
	if n.Kind != List {
		return nil, n.Errorf("%s must be a list of strings", what)
	}
	out := make([]string, 0, len(n.Items))
	for _, item := range n.Items {
		s, err := item.Scalar("an item of " + what)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// WantMap returns an error unless the node is a map.
func (n *Node) WantMap(what string) error {
	if n == nil || n.Kind != Map {
		return n.Errorf("%s must be a map", what)
	}
	return nil
}

// WantList returns an error unless the node is a list.
func (n *Node) WantList(what string) error {
	if n == nil || n.Kind != List {
		return n.Errorf("%s must be a list", what)
	}
	return nil
}
