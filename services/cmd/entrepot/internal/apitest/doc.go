// Package apitest holds the tests of the platform's outer surface: REST, gRPC and bytes as strangers and clients see
// them, against everything that stands behind. There is no code in it that runs anywhere else.
//
//	world_test.go     who is who in these tests, and what there is
//	quetz_*_test.go   the Quetz dialect: rights, texts, shapes
//	native_*_test.go  the native API
//	frontdoor, services, bytes, paths, headers, identity …  one subject each
package apitest
