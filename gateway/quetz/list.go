package quetz

import (
	"net/http"

	"google.golang.org/protobuf/proto"

	"github.com/entrepot-dev/entrepot/gateway/edge"
)

// list writes a JSON array as its items come, so that an unpaged list of any length takes little memory. Nothing is
// sent before the first item or the end, so an early error still gets its own status.
type list struct {
	w       http.ResponseWriter
	m       edge.Marshaler
	started bool
}

func newList(w http.ResponseWriter) *list {
	return &list{w: w, m: edge.Marshaler{NullWhenEmpty: nullWhenEmpty}}
}

func (l *list) add(v any) error {
	var data []byte
	var err error
	if msg, ok := v.(proto.Message); ok {
		data, err = l.m.Marshal(msg)
	} else {
		data, err = edge.MarshalJSON(v)
	}
	if err != nil {
		return err
	}
	sep := ","
	if !l.started {
		l.w.Header().Set("Content-Type", "application/json")
		l.started, sep = true, "["
	}
	if _, err := l.w.Write([]byte(sep)); err != nil {
		return err
	}
	_, err = l.w.Write(data)
	return err
}

// end closes the array. After an error mid-way the connection is cut: half a list must not look whole.
func (l *list) end(err error) error {
	switch {
	case err != nil && l.started:
		panic(http.ErrAbortHandler)
	case err != nil:
		return err
	case !l.started:
		edge.WriteJSON(l.w, http.StatusOK, "application/json", []any{})
		return nil
	}
	_, err = l.w.Write([]byte("]"))
	return ignoreGone(err)
}
