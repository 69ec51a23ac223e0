//go:build unguarded_fresh_id && !unguarded

package guard

// FreshID is removed.
const FreshID = false
