//go:build !unguarded_stored && !unguarded

package guard

// Stored: what is stored is not fetched again.
const Stored = true
