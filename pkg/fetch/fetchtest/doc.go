// Package fetchtest is an upstream that misbehaves on cue: a loopback HTTP server whose answers are scripted path by
// path, with a log of everything it was asked.
//
//	up := fetchtest.New(t)
//	up.Script("/noarch/repodata.json", fetchtest.Status(500), fetchtest.Status(500), fetchtest.Body(data))
//	…
//	if n := up.Count("/noarch/repodata.json"); n != 3 { … }
//
// The n-th request to a path gets its n-th behaviour, and the last one repeats; a path without a script is answered by
// Fallback, which is 404 until it is set (Static makes one from a map of files). A behaviour is an http.HandlerFunc, so
// tests add their own. Nothing here sleeps unless it is told for how long, and whatever waits ends with the request.
//
// It is a test's tool: production code must not import it.
package fetchtest
