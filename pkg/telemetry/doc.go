// Package telemetry is how the platform says what it does: structured logs, traces and metrics.
//
// One request has one id and one trace, from the HTTP request at the edge to the upstream fetch of a job. The id is in
// the answer's X-Request-Id, in each log line and in the audit log; the trace goes through gRPC metadata and bus headers.
//
// Metrics have no labels that users can make up: a channel's or a package's name is none.
package telemetry
