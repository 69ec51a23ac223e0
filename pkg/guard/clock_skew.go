//go:build !unguarded_clock_skew && !unguarded

package guard

// ClockSkew: an internal token is taken by nodes whose clocks differ a little.
const ClockSkew = true
