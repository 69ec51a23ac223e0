package image

import (
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
)

// layer is a segment, or several joined.
type layer struct {
	s     *segment.Segment // the file
	form  segment.Form
	media types.MediaType
}

var _ v1.Layer = (*layer)(nil)

// Digest implements v1.Layer.
func (l *layer) Digest() (v1.Hash, error) { return v1.Hash{Algorithm: "sha256", Hex: l.s.SHA256}, nil }

// DiffID implements v1.Layer.
func (l *layer) DiffID() (v1.Hash, error) {
	return v1.Hash{Algorithm: "sha256", Hex: l.s.DiffSHA256}, nil
}

// Size implements v1.Layer.
func (l *layer) Size() (int64, error) { return l.s.Size, nil }

// MediaType implements v1.Layer.
func (l *layer) MediaType() (types.MediaType, error) { return l.media, nil }

// Compressed implements v1.Layer.
func (l *layer) Compressed() (io.ReadCloser, error) { return l.s.Open() }

// Uncompressed implements v1.Layer.
func (l *layer) Uncompressed() (io.ReadCloser, error) { return l.s.Plain(l.form) }

// Drop removes the layer's file from the cache, because it is not what it should be.
func (l *layer) Drop() { l.s.Drop() }
