//go:build !unguarded_claim && !unguarded

package guard

// Claim: only a queued job can be claimed, so that a message which comes twice, or late, finds nothing to do.
const Claim = true
