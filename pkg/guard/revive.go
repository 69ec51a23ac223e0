//go:build !unguarded_revive && !unguarded

package guard

// Revive: the private PostgreSQL is started again when it dies.
const Revive = true
