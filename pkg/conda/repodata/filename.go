package repodata

import (
	"errors"
	"fmt"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

// checkFilename says what is wrong with a key of a bucket, empty if nothing is. Keys become paths in stores and URLs.
// A .conda listed under "packages" is odd but harmless, and clients install it: the name tells the format, not the bucket.
func checkFilename(b Bucket, key string) string {
	if b.V3() {
		if b != V3Conda && b != V3TarBz2 {
			return checkPathComponent(key) // drafts: their keys have no agreed form yet
		}
		if len(key)+len(b.Extension()) > dist.MaxFilename {
			return "file name is too long"
		}
		_, err := dist.ParseStem(key)
		return distError(err)
	}
	_, err := dist.ParseFilename(key)
	return distError(err)
}

func distError(err error) string {
	var e *dist.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Field + " in file name: " + e.Reason
	}
	return err.Error()
}

// checkPathComponent refuses what is no single, visible, printable component of a path or URL: for names of files that
// need not be packages, or need not be there. A percent sign is refused as well: in an index it is an escape somebody
// forgot to decode.
func checkPathComponent(s string) string {
	switch {
	case s == "":
		return "file name is empty"
	case len(s) > dist.MaxFilename:
		return "file name is too long"
	case s[0] == '.' || s[0] == '-':
		return fmt.Sprintf("file name begins with %q", s[0])
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("._-+!=~", c) >= 0:
		default:
			return fmt.Sprintf("file name has the byte %q", c)
		}
	}
	return ""
}
