//go:build unguarded_stored && !unguarded

package guard

// Stored is removed.
const Stored = false
