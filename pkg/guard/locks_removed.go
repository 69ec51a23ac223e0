//go:build unguarded_locks && !unguarded

package guard

// Locks is removed.
const Locks = false
