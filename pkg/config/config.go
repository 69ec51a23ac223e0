package config

import (
	"encoding"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/knadh/koanf/v2"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Sources are where values come from, weakest first.
type Sources struct {
	// File is a YAML file; empty means none.
	File string
	// Environ is the environment as os.Environ returns it.
	Environ []string
	// EnvPrefix is what our variables begin with, such as "ENTREPOT_". Without it the environment is not looked at.
	EnvPrefix string
	// Flags holds the flags that were given, by key ("sync.workers").
	Flags map[string]any
	// Reserved are variables with the prefix that are no configuration.
	Reserved []string
}

// Warning is something doubtful that works.
type Warning struct {
	// Source is the file or variable it is about.
	Source string
	// Message says what is doubtful and how to settle it.
	Message string
}

func (w Warning) String() string { return w.Source + ": " + w.Message }

// Load returns the defaults overridden by the sources. The error is fault.Invalid and lists every mistake, one a line,
// each with its place and as a violation with its key; no message repeats the value of a secret.
func Load[T any](defaults T, from Sources) (T, []Warning, error) {
	cfg := defaults
	s, root, err := schemaOf(&cfg)
	if err != nil {
		return defaults, nil, err
	}
	var warnings []Warning
	file, env, flags := &layer{}, &layer{}, &layer{}
	if from.File != "" {
		warnings = append(warnings, file.readFile(from.File, s)...)
	}
	if from.EnvPrefix != "" {
		warnings = append(warnings, env.readEnviron(from, s)...)
	}
	for _, key := range slices.Sorted(maps.Keys(from.Flags)) {
		if leaf := s.find(key); leaf == nil || leaf.children != nil {
			flags.fail(key, "flag "+key, "no such key%s", nearest(key, keys(s)))
		} else {
			flags.set(leaf, from.Flags[key], "flag "+key)
		}
	}

	k := koanf.New(".")
	var mistakes []fault.Violation
	for _, l := range []*layer{file, env, flags} {
		mistakes = append(mistakes, l.mistakes...)
		if err := k.Load(l, nil); err != nil {
			return defaults, nil, fmt.Errorf("merge the configuration: %w", err)
		}
		for _, leaf := range l.leaves {
			// Lists and mappings are replaced, not written into: the defaults own theirs.
			root.FieldByIndex(leaf.index).SetZero()
		}
	}
	if len(mistakes) > 0 {
		return defaults, nil, invalid(mistakes)
	}
	if err := k.Unmarshal("", &cfg); err != nil {
		return defaults, nil, fault.New(fault.Internal, "decode the configuration: %w", err)
	}
	return cfg, warnings, nil
}

func invalid(mistakes []fault.Violation) error {
	lines := make([]string, len(mistakes))
	for i, m := range mistakes {
		lines[i] = m.Description
	}
	err := fault.New(fault.Invalid, "configuration: %s", strings.Join(lines, "\n"))
	err.Violations = mistakes
	return err
}

// layer is the converted values of one source, with the mistakes found on the way. It is a koanf.Provider.
type layer struct {
	values   map[string]any
	leaves   []*schema
	mistakes []fault.Violation
}

func (l *layer) fail(key, place, format string, args ...any) {
	l.mistakes = append(l.mistakes, fault.Violation{Field: strings.TrimPrefix(key, "."), Description: place + ": " + fmt.Sprintf(format, args...)})
}

// set converts a value and puts it at the leaf's key.
func (l *layer) set(s *schema, v any, place string) {
	x, err := convert(v, s.typ)
	if err != nil {
		l.fail(s.key, place, "%s: %v", s.key, err)
		return
	}
	if l.values == nil {
		l.values = map[string]any{}
	}
	at, path := l.values, strings.Split(s.key, ".")
	for _, name := range path[:len(path)-1] {
		next, ok := at[name].(map[string]any)
		if !ok {
			next = map[string]any{}
			at[name] = next
		}
		at = next
	}
	at[path[len(path)-1]] = x
	l.leaves = append(l.leaves, s)
}

// Read gives koanf the values.
func (l *layer) Read() (map[string]any, error) {
	if l.values == nil {
		return map[string]any{}, nil
	}
	return l.values, nil
}

// ReadBytes is not used: there is no parser.
func (l *layer) ReadBytes() ([]byte, error) { return nil, fmt.Errorf("a layer has no bytes") }

// readEnviron adds the variables with the prefix.
func (l *layer) readEnviron(from Sources, s *schema) (warnings []Warning) {
	byName := map[string]*schema{}
	var names []string
	s.leaves(func(leaf *schema) {
		name := from.EnvPrefix + strings.ToUpper(strings.ReplaceAll(leaf.key, ".", "__"))
		byName[name] = leaf
		names = append(names, name)
	})
	for _, entry := range from.Environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, from.EnvPrefix) || slices.Contains(from.Reserved, name) {
			continue
		}
		leaf := byName[name]
		if leaf == nil { // perhaps below a mapping whose entries have names of their own
			key := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, from.EnvPrefix)), "__", ".")
			if leaf = s.find(key); leaf != nil && leaf.children != nil {
				leaf = nil
			}
		}
		switch {
		case leaf == nil:
			l.fail("", name, "no such configuration variable%s", nearest(name, names))
		case value == "":
			// Compose files hand on what is not set as empty.
			warnings = append(warnings, Warning{name, "is empty and therefore ignored"})
		default:
			l.set(leaf, value, name)
		}
	}
	return warnings
}

func keys(s *schema) (all []string) {
	s.leaves(func(leaf *schema) { all = append(all, leaf.key) })
	return all
}

func schemaOf(cfg any) (*schema, reflect.Value, error) {
	v := reflect.ValueOf(cfg).Elem()
	s, err := newSchema(v.Type())
	return s, v, err
}

// showLeaf returns a leaf as YAML should spell it.
func showLeaf(v reflect.Value) any {
	switch x := v.Interface().(type) {
	case time.Duration:
		return x.String()
	case map[string]string:
		return sortedMap(x)
	case encoding.TextMarshaler:
		if text, err := x.MarshalText(); err == nil {
			return string(text)
		}
	}
	if v.Kind() == reflect.Slice {
		list := make([]any, v.Len())
		for i := range list {
			list[i] = showLeaf(v.Index(i))
		}
		return list
	}
	return v.Interface()
}
