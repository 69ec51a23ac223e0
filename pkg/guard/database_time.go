//go:build !unguarded_database_time && !unguarded

package guard

// DatabaseTime: leases go by the database's clock.
const DatabaseTime = true
