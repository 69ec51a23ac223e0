//go:build unguarded_head && !unguarded

package guard

// Head is removed.
const Head = false
