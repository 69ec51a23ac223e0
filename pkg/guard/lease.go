//go:build !unguarded_lease && !unguarded

package guard

// Lease: what a worker holds is taken back when its lease has run out.
const Lease = true
