package main

// scenarios are all there are, in the order in which they are told.
var scenarios = []scenario{
	{"kill-worker", "kill -9 of a worker mid-job", "Lease", deadLease, killWorker},
	{"kill-sync", "kill -9 of the whole process at 25, 50 and 75 % of a sync", "Stored", fetchedTwice, killSync},
	{"kill-publish", "kill -9 of the whole process between blob and commit", "Reclaim", deadOwner, killPublish},
	{"stream-lost", "JetStream directory deleted, server restarted", "Redispatch", lostMessage, streamLost},
	{"stream-gone", "JetStream directory deleted under the running server", "Heal", lostStream, streamGone},
	{"duplicates", "every message delivered again, out of order and late", "Claim", doneTwice, duplicates},
	{"race", "two workers publish to one channel at the same moment", "Head", lostUpdate, race},
	{"locks", "jobs that exclude each other on two workers", "Locks", overlap, exclusion},
	{"stop-end", "SIGSTOP past the lease, SIGCONT before the job's last commit", "Settle", doneTwice, stopEnd},
	{"stop-publish", "SIGSTOP past the lease between blob and publication, then SIGCONT", "Hold", latePublished, stopPublish},
	{"postgres", "kill -9 of PostgreSQL, and of a backend", "Revive", deadDatabase, postgresKilled},
	{"nats-away", "NATS away", "Outbox", unsent, natsAway},
	{"disk-full", "full disk during upload, sync and publication", "DiskFull", storedCut, diskFull},
	{"clock-lease", "workers' clocks an hour behind and ahead", "DatabaseTime", lostLease, clockLease},
	{"clock-token", "clocks of two nodes four seconds apart", "ClockSkew", refusedToken, clockToken},
	{"release", "a job given back right after its delivery", "FreshID", swallowed, released},
}

// slow says about how many seconds the longer ones take.
var slow = map[string]int{"nats-away": 30, "stream-gone": 30, "postgres": 20, "kill-sync": 20, "stream-lost": 20}
