//go:build unguarded_outbox && !unguarded

package guard

// Outbox is removed.
const Outbox = false
