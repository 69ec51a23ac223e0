// Package scenario holds what the tests of a whole installation share, whether it runs in containers (composetest) or in
// processes (clustertest): an upstream that is as slow as one likes and counts who fetched what, uploads of a sample
// channel, and the comparison of a channel with its source, by what its index lists and by every byte.
package scenario
