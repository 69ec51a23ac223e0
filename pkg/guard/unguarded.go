//go:build unguarded

package guard

import "os"

// With the tag `unguarded` the guards are variables, and the environment names the one to be removed when the program
// starts: one build serves for all of them. This is the only program that can be talked out of a guard.
var (
	Claim        = left("Claim")
	Lease        = left("Lease")
	Reclaim      = left("Reclaim")
	Hold         = left("Hold")
	Settle       = left("Settle")
	Locks        = left("Locks")
	Head         = left("Head")
	FreshID      = left("FreshID")
	Outbox       = left("Outbox")
	Redispatch   = left("Redispatch")
	Heal         = left("Heal")
	Stored       = left("Stored")
	DiskFull     = left("DiskFull")
	DatabaseTime = left("DatabaseTime")
	ClockSkew    = left("ClockSkew")
	Revive       = left("Revive")
)

// Removed names the guard that is missing in this program; empty means none.
const Removed = "CHAOS_UNGUARDED"

func left(name string) bool { return os.Getenv(Removed) != name }
