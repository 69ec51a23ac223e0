package rpc

import (
	"context"
	"sync"
)

type onceKey struct{}

// onceValues are what was found out in the course of one call.
type onceValues struct {
	mu     sync.Mutex // of the map, never held while anything is asked
	values map[any]*onceValue
}

// onceValue is what was found out for one key.
type onceValue struct {
	mu    sync.Mutex
	value any
	found bool
}

func (o *onceValues) of(key any) *onceValue {
	o.mu.Lock()
	defer o.mu.Unlock()
	v := o.values[key]
	if v == nil {
		v = new(onceValue)
		o.values[key] = v
	}
	return v
}

// Once returns what get found for a key of a type of its own, and asks it only once in a call: the checks before a handler
// and the handler itself look at the same state, and look once. Errors are not kept. What a handler has changed itself it
// must not ask for again so. Outside a call get is asked each time.
//
// Who asks for a key while another goroutine of the call does waits for it. So get may ask for other keys, but not for its
// own, nor for one whose get asks for this: it would wait for itself.
func Once[K comparable, V any](ctx context.Context, key K, get func() (V, error)) (V, error) {
	o, ok := ctx.Value(onceKey{}).(*onceValues)
	if !ok {
		return get()
	}
	once := o.of(key)
	once.mu.Lock()
	defer once.mu.Unlock()
	if once.found {
		return once.value.(V), nil
	}
	v, err := get()
	if err == nil {
		once.value, once.found = v, true
	}
	return v, err
}
