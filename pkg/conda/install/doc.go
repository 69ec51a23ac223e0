// Package install makes conda environments: it brings a directory, the prefix, from whatever is installed there to a given
// set of packages.
//
//	<prefix>/
//	├ bin/ lib/ …                        the packages' files: hard links into the package cache, or copies
//	├ __clobbers__/<package>/…           files whose path another package has; they return when that one goes
//	└ conda-meta/
//	  ├ <name>-<version>-<build>.json    a Record for each package (CEP 32)
//	  ├ history                          what was done; makes the directory an environment
//	  ├ frozen                           if it is there, nothing is changed
//	  └ .transaction/                    only while something is being done
//	    ├ journal.json                   what is going to be done
//	    ├ old/0/0 old/0/1 …              files that were set aside
//	    ├ new/…                         files that are being written
//	    ├ meta/…                         records and history to be
//	    └ commit                         its existence is the decision
//
// What a package becomes in a prefix is said by package link; packages come from package pkgcache; this package decides
// what has to change and changes it.
//
// # A transaction
//
//  1. Diff. A package stays if its digest is the same. Packages for any python are linked anew when python's minor
//     version changes.
//  2. Fetch. All packages that come are downloaded, checked and unpacked. So far the prefix has not been touched.
//  3. Plan. Every path is known now, who wins where several want one, and what is in the way. Whatever can be refused is
//     refused here: prefixes that are too long for a placeholder, links that leave the prefix, foreign files.
//  4. Journal. The lists of files to be set aside and to be made are written and flushed.
//  5. Act. Old files are renamed into the transaction's directory, directories are made, then files, by several workers.
//  6. Stage. Records and history are written beside the old ones; then everything is flushed.
//  7. Commit: one empty file appears.
//  8. Complete. Records and history are moved into place, what was set aside is deleted, empty directories go.
//
// # When things fail
//
// An error before the commit rolls back: new files are removed, old ones are renamed back. A process that dies leaves the
// journal; whoever changes the prefix next (or calls Recover) finds it and rolls back if there is no commit, and completes
// if there is. Both may die at any point in turn and be begun again. A process holds a lock on conda-meta, which the
// kernel releases with it, so that nobody recovers what is still running.
//
// A file that is not a hard link is written in the transaction's directory and then moved to its path, which fails if
// there is one: at a path of the environment there is never half a file. The journal has the time and size that each will
// have, so that a rollback by another process tells it from what a person put there after the crash, and leaves that.
//
// # Programs of packages
//
// Link scripts are programs, and what they do elsewhere in the prefix is not undone. They are off by default, and run in a
// [Sandbox]. They cannot write to conda-meta; and since a sandbox may be switched off, all that this package does there
// goes by a directory that was opened before, follows no links out of it, and writes to no file that it did not make.
// Files that installed packages share with the cache are made copies before a script runs.
//
// # Whose files
//
// Only files that a record lists are ever deleted. A file of nobody in the way of a package is an error, or is moved below
// __foreign__. Byte code is the exception: where a noarch python package leaves nothing but __pycache__ in a directory,
// that goes too. All access to the prefix is by os.Root: no link in it, nor any path in a record or journal, leads outside.
package install
