package guard

// Guard is a check that a build tag can remove.
type Guard struct {
	// Name of the constant; Tag is the build tag that removes it.
	Name, Tag string
	// On is the constant's value in this program.
	On bool
	// Without says what goes wrong when it is removed.
	Without string
}

// All lists the guards.
var All = []Guard{
	{"Claim", "unguarded_claim", Claim, "a job that is done is done again when its message comes once more"},
	{"Lease", "unguarded_lease", Lease, "a killed worker keeps its job for ever"},
	{"Reclaim", "unguarded_reclaim", Reclaim, "a restarted process waits for leases that nobody holds"},
	{"Hold", "unguarded_hold", Hold, "a worker that stood still overwrites what its successor did"},
	{"Settle", "unguarded_settle", Settle, "a worker that stood still records its job a second time"},
	{"Locks", "unguarded_locks", Locks, "jobs that exclude each other run at the same time"},
	{"Head", "unguarded_head", Head, "of two publishers one loses what the other published"},
	{"FreshID", "unguarded_fresh_id", FreshID, "a job that was given back is swallowed as a duplicate"},
	{"Outbox", "unguarded_outbox", Outbox, "jobs asked for while NATS is away are not dispatched when it is back"},
	{"Redispatch", "unguarded_redispatch", Redispatch, "jobs whose messages are lost wait for ever"},
	{"Heal", "unguarded_heal", Heal, "a server that lost its files keeps all jobs"},
	{"Stored", "unguarded_stored", Stored, "a sync that was killed begins at the front"},
	{"DiskFull", "unguarded_disk_full", DiskFull, "files are listed and served cut"},
	{"DatabaseTime", "unguarded_database_time", DatabaseTime, "a process whose clock is wrong loses its jobs, or keeps them when it is dead"},
	{"ClockSkew", "unguarded_clock_skew", ClockSkew, "calls between nodes fail when one clock is behind"},
	{"Revive", "unguarded_revive", Revive, "the platform stays down when its database was killed"},
}
