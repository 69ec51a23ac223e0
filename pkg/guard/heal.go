//go:build !unguarded_heal && !unguarded

package guard

// Heal: a stream that acknowledges and does not deliver is replaced.
const Heal = true
