// Package version implements the version literals of conda packages, their
// order, and the clauses that select versions.
//
// # Order
//
// CEP 33 defines the order; it is neither semantic versioning nor PEP 440. A
// literal is an optional epoch, a main part and an optional local part:
//
//	1!2.15.1_alpha+cuda.12
//	│ └────┬─────┘ └──┬──┘
//	epoch  main       local
//
// Main and local part are split at dots (and underscores) into segments, each
// segment into runs of digits and of other characters. Two versions are
// compared segment by segment, run by run; whatever is missing counts as the
// integer 0, a string is smaller than any integer, and strings compare by
// bytes. Two words are special when they are a whole run: "dev" is smaller
// than every other word and "post" is greater than every integer. Local parts
// only matter between equal main parts.
//
// The consequences surprise at first, so they are pinned by tests:
//
//	1.1 == 1.1.0          1.1rc < 1.1.0rc == 1.1.rc       1.0.1_ < 1.0.1a
//	1.1.post1 < 1.1post1  0.4.1+local < 0.4.1 == 0.4.1+0  1.0adev is no dev release
//
// CEP 33 limits a run of digits to 2³¹−1. Published channels hold dates of 14
// digits and more, so this package accepts a run of any length.
//
// # Clauses
//
// A [Spec] is a boolean combination of clauses such as ">=1.8,<2|==3.1.*".
// See [ParseSpec] for the grammar. Both types keep the text they were made
// from: globs and regular expressions look at that text, and so do people.
package version
