//go:build unguarded_clock_skew && !unguarded

package guard

// ClockSkew is removed.
const ClockSkew = false
