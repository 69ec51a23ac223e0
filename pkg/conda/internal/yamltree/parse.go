// Package yamltree reads and writes the YAML of lock files without losing what a decoder would: the order of keys, the
// spelling of scalars, where things stand, and keys that nobody knows.
package yamltree

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Kind is what a node is.
type Kind uint8

// The kinds of nodes.
const (
	Null Kind = iota
	String
	Other // a scalar that is no string: number, boolean, time
	List
	Map
)

// Node is a part of a document. The zero value is null.
type Node struct {
	Kind   Kind
	Text   string // of a scalar, unquoted
	Items  []*Node
	Fields []Field

	Line, Column int // counted from one; zero in nodes that were made
}

// Field is a key of a map and its value.
type Field struct {
	Key          string
	Value        *Node
	Line, Column int
}

// Error says what is wrong with a document, and where.
type Error struct {
	Line, Column int // zero if it is about the whole
	Msg          string
}

// Error implements error.
func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Msg
	}
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Msg)
}

// Limits of a document. They are far above real ones: a lock of 80,000 lines has 400,000 nodes.
const (
	maxSize  = 64 << 20
	maxDepth = 64
	maxNodes = 5_000_000
)

// Parse reads a document. Aliases and merge keys are refused: nobody needs them here, and a few lines of them can stand
// for terabytes.
func Parse(data []byte) (*Node, error) {
	if len(data) > maxSize {
		return nil, &Error{Msg: fmt.Sprintf("the file is larger than %d bytes", maxSize)}
	}
	tokens := lexer.Tokenize(string(data))
	depth := 0
	for _, t := range tokens {
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			depth++
		case token.MappingEndType, token.SequenceEndType:
			depth--
		case token.AliasType, token.AnchorType, token.MergeKeyType:
			return nil, at(t, "anchors, aliases and merge keys are not allowed")
		case token.InvalidType:
			return nil, at(t, "this is not YAML: "+t.Error)
		}
		if depth > maxDepth {
			return nil, at(t, "nested too deeply")
		}
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // ours says it better
	if err != nil {
		return nil, parseError(err)
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			return nil, at(doc.Body.GetToken(), "there is a second document")
		}
		body = doc.Body
	}
	if body == nil {
		return &Node{}, nil
	}
	c := converter{}
	return c.node(body, 0)
}

func at(t *token.Token, msg string) *Error {
	if t == nil || t.Position == nil {
		return &Error{Msg: msg}
	}
	return &Error{Line: t.Position.Line, Column: t.Position.Column, Msg: msg}
}

// parseError keeps the place and the first line of the library's message, which draws the source as well.
func parseError(err error) *Error {
	type located interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if l, ok := err.(located); ok {
		return at(l.GetToken(), l.GetMessage())
	}
	msg, _, _ := strings.Cut(err.Error(), "\n")
	return &Error{Msg: msg}
}

type converter struct{ nodes int }

func (c *converter) node(n ast.Node, depth int) (*Node, error) {
	if c.nodes++; c.nodes > maxNodes || depth > maxDepth {
		return nil, at(n.GetToken(), "the file is too large")
	}
	out := &Node{}
	if t := n.GetToken(); t != nil && t.Position != nil {
		out.Line, out.Column = t.Position.Line, t.Position.Column
	}
	switch n := n.(type) {
	case *ast.NullNode:
	case *ast.StringNode:
		out.Kind, out.Text = String, n.Value
	case *ast.LiteralNode:
		out.Kind, out.Text = String, n.Value.Value
	case *ast.SequenceNode:
		out.Kind = List
		for _, v := range n.Values {
			item, err := c.node(v, depth+1)
			if err != nil {
				return nil, err
			}
			out.Items = append(out.Items, item)
		}
	case *ast.MappingNode:
		out.Kind = Map
		seen := make(map[string]bool, len(n.Values))
		for i, v := range n.Values {
			if key := v.Key.GetToken(); i == 0 && key.Position != nil {
				out.Line, out.Column = key.Position.Line, key.Position.Column // the map's own token is a colon
			}
			if err := c.field(out, v, seen, depth); err != nil {
				return nil, err
			}
		}
	case *ast.MappingValueNode:
		out.Kind = Map
		if err := c.field(out, n, map[string]bool{}, depth); err != nil {
			return nil, err
		}
	case *ast.TagNode:
		return nil, at(n.GetToken(), "tags are not allowed")
	case ast.ScalarNode:
		out.Kind, out.Text = Other, n.GetToken().Value
	default:
		return nil, at(n.GetToken(), "this cannot stand here")
	}
	return out, nil
}

func (c *converter) field(out *Node, v *ast.MappingValueNode, seen map[string]bool, depth int) error {
	key := v.Key.GetToken()
	if _, ok := v.Key.(ast.ScalarNode); !ok {
		return at(key, "a key must be a plain word")
	}
	if seen[key.Value] {
		return at(key, fmt.Sprintf("%q is there twice", key.Value))
	}
	seen[key.Value] = true
	value, err := c.node(v.Value, depth+1)
	if err != nil {
		return err
	}
	f := Field{Key: key.Value, Value: value}
	if key.Position != nil {
		f.Line, f.Column = key.Position.Line, key.Position.Column
	}
	out.Fields = append(out.Fields, f)
	return nil
}
