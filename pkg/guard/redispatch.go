//go:build !unguarded_redispatch && !unguarded

package guard

// Redispatch: what a lost stream held is dispatched again.
const Redispatch = true
