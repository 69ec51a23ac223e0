// Command bench measures Entrepot as its users meet it: over REST, against a real `entrepot serve` process with its
// default settings and durability, in its own data directory on a real disk.
//
//	go run ./services/cmd/bench [--only sync,news,upload,uploads,api,search,serve,proxy,jobs,metrics,large,clients,index,install,solve] [--runs 5]
//
// Each part starts servers of its own on free loopback ports and ends them:
//
//	sync    a fresh server per run; first sync of 2,000 tiny packages that no run before had, re-syncs of the unchanged
//	        upstream, memory before and after
//	upload  one server; a channel of 5,000 packages, then single uploads, each followed until the shard index and until
//	        repodata.json.zst show it; then uploads back to back
//	news    a fresh server per run; syncs of a mirror of 1,000 packages, with 1 % new and with nothing new
//	uploads one server; uploads one after another and 8 at a time into channels of 0, 2,000 and 5,000 packages
//	api     one server; a channel by API, health, a small package and repodata.json by wrk with 8 connections
//	search  one server with a million packages; searches of all kinds
//	serve   one server and one nginx with the same bytes; wrk against each in turn, A B A B
//	proxy   one server and one nginx with proxy_cache before the same upstream: every file cold and warm, one file warm
//	jobs    pkg/jobs with a private PostgreSQL and an embedded NATS in this process: as many durable jobs as go through, then
//	        half of that at a fixed rate; PostgreSQL alone beside it
//	metrics pkg/access and services/metrics with the same: counting 10,000 downloads a second, each once
//	large   one server; a mirror of 200,000 records: its first sync, re-syncs without and with news, single publications
//	clients the same server: 1,000 clients fetch an index at the same time
//	index   no server: a directory of 2,500 packages indexed from nothing and with one more, beside rattler-index and conda-index
//	install no server: an environment of 28,600 files linked out of a warm cache, beside py-rattler
//	solve   no server: 206 problems on a real channel beside py-rattler, and fresh processes on that and on one of 500,000 records
//
// The results are printed and written to docs/benchmarks/<date>-<part>.json, from which docs/benchmarks.md is rendered
// anew. Numbers from a run with smaller settings than the defaults are printed only.
//
// A running Quetz-compatible server named by PEER_URL (and PEER_KEY) is measured in turn with Entrepot by the same
// requests, where the dialect has them; it must allow upstreams on loopback.
package main
