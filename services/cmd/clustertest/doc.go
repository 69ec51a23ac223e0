// Command clustertest is what `make cluster-test` runs: the platform as separate processes, one target each, with nothing
// in common but a PostgreSQL, a NATS server, an S3 server and the network.
//
// Each process has an empty data directory and an empty working directory of its own, and reaches every service by TCP,
// its own included. On this stage, while a reader compares what both gateways serve at 200 requests a second and more:
//
//  1. the demo's scenario runs twice through a balancer over two gateways; the second time a gateway and the worker that
//     runs the sync are killed with SIGKILL while it downloads; of each file of a proxy channel, large
//     or small, all first readers at both gateways together make one request upstream, with two syncs that share the files;
//     while one of the two stands still the other serves its files within a few seconds;
//  2. an API key is revoked, and another one while NATS stands still: both gateways refuse it within five seconds;
//  3. PostgreSQL, NATS and the S3 server are stopped with SIGSTOP and killed, in turn: the readiness of every target that
//     needs the part names it within two seconds, nobody's liveness changes, and all are ready five seconds after healing;
//  4. a gateway, channels, jobs and a worker get SIGTERM while they are busy: readiness drops first, what is under way
//     ends well, a running job goes to the other worker without a failed attempt, and a second signal ends at once;
//  5. every process's own metrics show what it served; then all are stopped, with exit code 0, and no directory holds more
//     than the few small files that belong there.
//
// The same health and shutdown rules are then asked of `entrepot serve`, the form with everything in one process.
//
// It prints a line for each thing that held and a table of all processes. When something does not hold it says what, and
// shows the end of the logs, which stay in a temporary directory. All processes are ended by their ids, however it ends.
package main
