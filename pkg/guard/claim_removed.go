//go:build unguarded_claim && !unguarded

package guard

// Claim is removed.
const Claim = false
