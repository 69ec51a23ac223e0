// Package fetch is the platform's one outgoing HTTP client. Whoever asks an upstream for bytes asks through it, so the
// rules for dealing with strangers' servers stand in one place.
//
// A Client is made once per process and holds what is shared: connections, and for each host its slots, its brake and
// its breaker. A Remote is one upstream as its owner configured it: base URL, credentials, CA bundle, proxy, rates.
//
//	client, err := fetch.New(fetch.Config{})
//	remote, err := client.Remote(fetch.RemoteConfig{Name: "conda-forge", Kind: "conda", BaseURL: "https://…"})
//	resp, err := remote.Get(ctx, fetch.Request{Path: "noarch/repodata.json.zst", IfNoneMatch: etag, MaxSize: 1 << 30})
//	result, err := remote.Download(ctx, fetch.DownloadRequest{Path: p, Size: n, SHA256: sum}, sink)
//
// # Promises
//
// Egress. Every dial checks the address the name resolved to, at the moment of the dial, on every hop: a redirect, a
// proxy or a name that resolves to something else the second time changes nothing. Without leave (Policy) only public
// unicast addresses are reached. The environment's proxy variables are not read.
//
// Credentials. They go to the remote's own origin (scheme, host and port) and nowhere else. Once a redirect has left that
// origin they stay off for the rest of the chain, even if it comes back, for then a foreign server chose the URL. A https
// request that carried any is not redirected to http. No error, log line, span or metric shows them: see Redact.
//
// Bounds. A body has a cap, always given by the caller, and must make progress: Timeouts.MinRate over Timeouts.Window,
// counting only time spent waiting for the upstream, never for a slow reader of ours. There is no limit on total time:
// large files take as long as they take. A gzip Content-Encoding, sent although we ask for identity, is decoded under the
// same cap and a ratio; on a file whose own name ends in .gz it is ignored (servers label such files wrongly, and the
// digest is of the file as named); any other encoding is refused.
//
// # When things fail
//
//	what happened                                           then
//	404, 410                                                fault.NotFound at once
//	403                                                     asked once more (busy mirrors say it), then fault.Upstream
//	429, 503 with Retry-After                               brake: every request to that host waits; too long a wait fails at once with RetryAfter
//	408, 425, 429, 5xx; refused, reset, cut, timed out      backoff with full jitter, up to Retry.Attempts
//	many failures of one host in a row                      brake on that host, doubling to a minute; one success, or Lift, lifts it
//	other status, bad redirect, TLS certificate, encoding   fault.Upstream at once; the brake does not count it
//	address or port not allowed                             fault.Denied, reason EGRESS_DENIED
//	the caller's context ends                               at once, with the context's error
//
// Download adds to this: a body that breaks off is continued with Range, guarded by If-Range when the upstream has a
// strong ETag; an attempt that made progress does not use up the attempts. If the file changed meanwhile, it starts
// again from zero. Size and digests are checked at the end and nothing passes that does not have them; a mismatch in a
// body that came in one piece is not asked for again, since the same source would send the same bytes.
//
// Upstream failures are of kind fault.Upstream with one of the Reason constants; StatusOf gives the HTTP status, if any.
package fetch
