// Package arrows holds the test that imports point one way through the repository; see arrows_test.go for the rules.
package arrows
