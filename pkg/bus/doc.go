// Package bus connects the platform to NATS, or runs it inside the process.
//
// What travels here is dispatch (the ids of jobs that are rows in PostgreSQL), events for people who watch, and counts.
// Nothing on the bus is the truth: whatever it loses is sent again from the database, late but never lost.
//
// # The server
//
// [StartEmbedded] runs a JetStream server in the process, by default without any socket. It fsyncs every write before it
// acknowledges; the server's own default acknowledges first and syncs every two minutes, which loses acknowledged
// messages in a power cut.
//
// # Health
//
// A JetStream server whose files were taken away goes on acknowledging publishes, delivers nothing, and calls itself
// healthy. So [Bus.Probe] publishes a message and fetches it again, and [Bus.Heal] deletes and creates a broken stream:
// updating it in place does not help. Healing empties a stream and drops its consumers; the owner makes those again and
// re-sends from the database.
//
// # Traces
//
// Publish writes the trace context of ctx into the message's headers, Subscribe hands it to the handler, so that one
// trace runs from the HTTP request to the worker. Inject and Extract do the same for messages sent through JetStream.
package bus
