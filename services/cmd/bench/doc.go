// Command bench measures Entrepot as its users meet it: over REST, against a real `entrepot serve` process with its
// default settings and durability, in its own data directory on a real disk.
//
//	go run ./services/cmd/bench [--only sync,upload,serve,proxy,jobs,large,clients] [--runs 5]
//
// Each part starts servers of its own on free loopback ports and ends them:
//
//	sync    a fresh server per run; first sync of 2,000 tiny packages that no run before had, re-syncs of the unchanged
//	        upstream, memory before and after
//	upload  one server; a channel of 5,000 packages, then single uploads, each followed until the shard index and until
//	        repodata.json.zst show it; then uploads back to back
//	serve   one server and one nginx with the same bytes; wrk against each in turn, A B A B
//	proxy   one server and one nginx with proxy_cache before the same upstream: every file cold and warm, one file warm
//	jobs    pkg/jobs with a private PostgreSQL and an embedded NATS in this process: as many durable jobs as go through, then
//	        half of that at a fixed rate; PostgreSQL alone beside it
//	large   one server; a mirror of 200,000 records: its first sync, re-syncs without and with news, single publications
//	clients the same server: 1,000 clients fetch an index at the same time
//
// The results are printed and written to docs/benchmarks/<date>-<part>.json, from which docs/benchmarks.md is rendered
// anew. Numbers from a run with smaller settings than the defaults are printed only.
//
// A running Quetz-compatible server named by PEER_URL (and PEER_KEY) is measured in turn with Entrepot by the same
// requests, where the dialect has them; it must allow upstreams on loopback.
package main
