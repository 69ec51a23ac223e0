//go:build unguarded_heal && !unguarded

package guard

// Heal is removed.
const Heal = false
