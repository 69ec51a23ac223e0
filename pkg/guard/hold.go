//go:build !unguarded_hold && !unguarded

package guard

// Hold: an effect commits only under the current claim.
const Hold = true
