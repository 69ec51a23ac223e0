//go:build !unguarded_reclaim && !unguarded

package guard

// Reclaim: a process that starts takes back at once what the one before it in the same data directory held.
const Reclaim = true
