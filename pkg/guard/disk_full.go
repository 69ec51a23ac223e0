//go:build !unguarded_disk_full && !unguarded

package guard

// DiskFull: what the disk did not take whole does not become a blob.
const DiskFull = true
