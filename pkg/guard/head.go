//go:build !unguarded_head && !unguarded

package guard

// Head: a publication counts only for the head that it was worked out for.
const Head = true
