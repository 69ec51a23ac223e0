// Package attacktest attacks the whole platform over real sockets, with what has opened doors elsewhere: paths, archives,
// addresses, headers, tokens, bodies. Each table prints how many vectors it tried; escapes are failures. There is no code
// in it that runs anywhere else.
//
//	world_test.go      the platform, requests written byte by byte, and what is on its disk
//	paths_test.go      names that want to be paths: uploads, metadata, upstream indexes, URLs, channels, pins
//	archives_test.go   packages that are not what they seem
//	ssrf_test.go       upstreams on addresses that nobody should reach through us
//	headers_test.go    fields that claim to be somebody: what the services see of them
//	smuggling_test.go  requests that two parsers read as different ones
//	tokens_test.go     credentials of one kind shown where another is wanted
//	limits_test.go     work that an attacker could make us do before he is known
package attacktest
