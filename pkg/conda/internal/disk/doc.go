// Package disk has what the file system offers to those who share files between processes and want them to last: locks that
// end with their process, and one flush for many files. Package caches and environments are kept by it.
package disk
