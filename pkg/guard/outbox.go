//go:build !unguarded_outbox && !unguarded

package guard

// Outbox: a message that was not acknowledged stays in the outbox.
const Outbox = true
