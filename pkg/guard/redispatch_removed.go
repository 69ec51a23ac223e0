//go:build unguarded_redispatch && !unguarded

package guard

// Redispatch is removed.
const Redispatch = false
