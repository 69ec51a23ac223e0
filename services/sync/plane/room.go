package plane

import (
	"syscall"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const (
	// largeFile is from when on it is asked whether there is room: the many small ones would not notice.
	largeFile = 16 << 20
	// spareRoom stays free for those that are under way.
	spareRoom = 64 << 20
)

// roomFor refuses a file that would fill the spool's disk: that would end all other flights too.
func roomFor(dir string, size int64) error {
	if size < largeFile {
		return nil
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return nil // it is a precaution: writing says what is wrong
	}
	if free := int64(fs.Bavail) * int64(fs.Bsize); free-spareRoom < size {
		return fault.New(fault.Unavailable, "the spool has %d bytes free, too few for a file of %d", free, size).WithRetryAfter(10 * time.Second)
	}
	return nil
}
