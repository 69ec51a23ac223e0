// Command chaos breaks a running platform in every way that it is said to survive, and counts what it lost.
//
//	chaos --quick            small numbers, a few minutes: what CI runs (make chaos ARGS=--quick)
//	chaos --full             thousands of jobs, a minute without NATS
//	chaos --scenario race    one of them; --list names them
//	chaos --report out.json  the numbers, for docs/benchmarks
//
// Each scenario starts real processes (PostgreSQL, NATS, services, workers) in a directory of its own, gives them work,
// does one thing to them (kill -9, SIGSTOP, deleted files, a full disk, a wrong clock), and waits until all is well again.
//
// # The ledger
//
// The work is jobs of the kind chaos.ledger, which this program's own worker processes do; the production program does
// not know it. A job makes a package and stores it as a blob, publishes it through the channels service under its claim,
// and appends a row to a table without any unique key in the transaction that ends the job. So whatever is done twice, or
// not at all, can be counted: afterwards there must be exactly one terminal state, one ledger row and one listed,
// downloadable package for each job.
//
// # The reader
//
// All the while a reader asks for every form of every index, now and as it was at a former revision, and for every file
// that one lists. A wrong answer is a violation, and fails the scenario: bytes that are not what the index says, a listed
// file that is not there, an index that goes back, or that no longer lists what it listed. So is no answer, or an honest
// 502, 503 or 504, outside of the outages that a scenario declares, which end a stated time after the fault. Outside of
// them the reader has to make 200 requests a second, and at the end it has to get good answers.
//
// # Guards
//
// A scenario that passes proves nothing unless it can fail. Each one rests on a guard (package guard), and is run again
// with a program that was built without it; then it has to break the promise that goes with the guard, or the whole run
// fails.
//
// The same program is the worker: `chaos process` runs a part of the platform, as `entrepot serve` does, with the
// ledger's kind added, and with a wrong clock if asked to.
package main
