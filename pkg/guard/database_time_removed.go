//go:build unguarded_database_time && !unguarded

package guard

// DatabaseTime is removed.
const DatabaseTime = false
