//go:build unguarded_reclaim && !unguarded

package guard

// Reclaim is removed.
const Reclaim = false
