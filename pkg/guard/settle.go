//go:build !unguarded_settle && !unguarded

package guard

// Settle: a job that is not held any more cannot be completed, and the effects in that transaction are undone.
const Settle = true
