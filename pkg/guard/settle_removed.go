//go:build unguarded_settle && !unguarded

package guard

// Settle is removed.
const Settle = false
