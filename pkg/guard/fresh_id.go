//go:build !unguarded_fresh_id && !unguarded

package guard

// FreshID: each dispatch of a job is a message with an id of its own.
const FreshID = true
