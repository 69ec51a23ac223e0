//go:build unguarded_revive && !unguarded

package guard

// Revive is removed.
const Revive = false
