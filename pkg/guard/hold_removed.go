//go:build unguarded_hold && !unguarded

package guard

// Hold is removed.
const Hold = false
