//go:build !unguarded_locks && !unguarded

package guard

// Locks: a job runs only when it has the locks that it asked for.
const Locks = true
