//go:build unguarded_disk_full && !unguarded

package guard

// DiskFull is removed.
const DiskFull = false
