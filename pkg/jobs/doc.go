// Package jobs runs the platform's background work: PostgreSQL is the truth, JetStream is the dispatcher.
//
// JetStream, with the settings it comes with, acknowledges before it has synced, and published tests lost acknowledged
// messages. So a job is a row. A message only says that a row may be worth a look, and losing every message there is
// costs delay, never a job.
//
// # What it promises
//
//   - A job exists if and only if the transaction that asked for it committed.
//   - It reaches exactly one terminal state (until somebody calls [Client.Retry]).
//   - What its worker writes under [Hold] takes effect for the current claim only.
//   - Kinds do not wait for each other, nor do tenants: one with a million jobs delays the others by a window.
//
// It does not promise that Work is called once: an attempt may be cut off anywhere, and the next begins at the front.
//
// # States
//
//	              Enqueue                      Enqueue with StartAt
//	                 │                                  │
//	                 ▼               due                ▼
//	   ┌──────▶ queued ◀──────────────────────── scheduled ◀──────┐
//	   │             │                                  │         │
//	   │ lock taken  │ claim                            │         │  failed: backoff · Snooze
//	   └─────────────┤                                  │         │  released · lease ran out
//	                 ▼                                  │         │
//	             running ───────────────────────────────┼─────────┘
//	     ┌───────────┼────────────┐                     │
//	     ▼           ▼            ▼      Cancel         │
//	succeeded      dead       cancelled ◀───────────────┘ (and from queued)
//
// Dead keeps the last error. A scheduled job is outside coalescing and exclusion until it is due. If its key is queued
// by then, it waits until that job has been claimed and takes its place in the queue.
//
// # The way of a job
//
//  1. [Client.Enqueue] writes the row and an outbox row in the caller's transaction, and notifies.
//  2. A relay (part of the [Dispatcher], in any process) marks outbox rows as released, publishes each with its own
//     Nats-Msg-Id to jobs.<kind>.<priority>, nudges the workers and deletes the rows. Every dispatch is a row of its own:
//     a message id that is used again within the stream's window is swallowed as a duplicate.
//  3. A [Runner] with a free slot fetches one message and claims the job by one UPDATE, which raises claim.
//  4. The [Worker] works, its effects under Hold. The last ones may include the end of the job: [Job.Complete].
//  5. The attempt is settled in the database, and only then is the message acknowledged. Every few jobs the runner tells
//     the relays, over core NATS, that there is room; a relay that does not hear it looks when its poll is due.
//
// The message is the job's id. The stream of a kind, JOBS_<KIND>, is a work queue with one durable consumer per priority
// and holds a window only: about twice the live slots, as the runners announce them. The queue stays in PostgreSQL,
// where the relay chooses: the urgent first (one low job is always on its way), within a priority in turn over the
// namespaces. A paused kind, or one without workers, is not released.
//
// # Claim, lease and trust
//
// The claim is a number per job that only grows. It is the fence: Hold compares it under a share lock on the job's row
// that lasts until the transaction ends, so whoever would take the job away waits for that transaction or has it
// refused. An acknowledgement is no fence (JetStream takes it from a holder that was replaced), nor is the lease.
//
// The lease says how long nobody else tries. A runner beats for all its jobs at a third of [RunnerConfig.LeaseTTL], by the
// database's clock. When the lease has run out, the sweeper takes the job back. Between then and the moment the old worker
// notices, two workers may be at it: that is the window in which only the claim protects. The worker's context ends
// with [ErrLeaseLost] when a beat finds the lease gone, or when no beat has succeeded for a whole LeaseTTL.
//
// So a worker owes three things to its claim. It writes in transactions that call Hold first. It sends (job, claim) along
// when another service writes for it, and that service calls Hold in its transaction. What no transaction covers it
// writes under a name that is a digest, or that holds job and claim. Keep such transactions short: one that stands still
// keeps the job from everybody, so let the database end idle transactions.
//
// # Coalescing and exclusion
//
// They are two things. With [EnqueueParams.CoalesceKey], requests for the same work become one job while it is queued;
// the one that joins locks the job until its transaction ends, so that the job sees what it wrote. While a job runs,
// its kind says whether a request joins it ([Join]) or queues exactly one more ([QueueOne]).
//
// [Lock]s are taken at the claim, all or none. A job that cannot have them goes back without a burned attempt and is
// dispatched again when one is released; who came first goes first, so sharers do not starve an exclusive job.
//
// # What an error does
//
//	nil                                            succeeded
//	[Snooze]                                       again after that time, nothing burned
//	[Cancel]                                       cancelled
//	[Discard]; kinds Invalid, Unauthenticated,
//	  Denied, NotFound, Conflict, Precondition,
//	  Unimplemented                                dead
//	anything else, a panic, the kind's timeout     again after backoff or the error's RetryAfter; dead at MaxFailures
//	anything, after Client.Cancel                  cancelled
//	anything, while stopping                       released, nothing burned
//
// # When things fail
//
//	caller rolls back              there is no job
//	relay dies before publishing   the mark on the outbox row is taken off after a while
//	relay dies after publishing    published again under the same id; a duplicate finds the job claimed
//	message delivered again,       the claim finds nothing to do; acknowledged
//	  five times, a day late
//	worker dies                    the lease runs out, which burns an attempt (a job may be what kills it); runs again
//	worker dies and comes back     the same at once, if it has an Instance: it need not wait for its own lease
//	worker stands still            the same; what it writes when it goes on is refused by Hold
//	worker stops                   its jobs finish within the grace or are released
//	worker dies after its commit   settled in that transaction: done. Otherwise it runs again
//	database away at the end       settling is tried for a LeaseTTL; then as if the worker had died
//	NATS away                      the outbox grows; afterwards everything is published
//	stream deleted                 the next publish or fetch makes it anew, and what was released is dispatched again
//	server lost its files          it goes on acknowledging and delivers nothing, or acknowledges no more: a job that waits
//	                               beside a free slot makes the sweeper probe by publish and fetch, replace the stream,
//	                               and dispatch again
//	single message lost            after RedispatchAfter the sweeper dispatches the job again
//	sweeper dies                   another takes the office when its lease is over; every duty may be done twice
//	cancellation's nudge lost      the next heartbeat reads the flag
//	events lost                    followers get states from the database
//
// # Following
//
// Progress and log lines go to the stream EVENTS, which persists lazily and is never the truth. [Client.Follow] yields
// them with ids of the form <epoch>-<sequence>, where the epoch is the birth of the stream, and the terminal state last.
package jobs
