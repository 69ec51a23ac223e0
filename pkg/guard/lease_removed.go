//go:build unguarded_lease && !unguarded

package guard

// Lease is removed.
const Lease = false
