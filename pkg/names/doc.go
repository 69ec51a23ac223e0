// Package names is the one validator for the names that strangers give us and that end up in paths, URLs and SQL keys.
//
// A name enters the platform once, as a string in a request, in an upstream's index or in an archive. The Parse
// functions turn it into a type of its own (ChannelName, NamespaceName, …), so that a function which takes such a
// type cannot be handed something unchecked by accident; CleanPath does the same for relative paths. Whatever passed
// here is one path segment (or a chain of such segments) that stays below the directory it is joined to, whichever of
// the usual readers looks at it: a file system, a proxy that decodes percent signs once more, or a person.
//
// What the rules are made of:
//
//	channel      Quetz: at most 50 ASCII letters, digits, ".", "-", "+", the first a letter or digit; "search" and "t" are routes
//	package      Quetz: ^[a-z0-9-_\.]*$, at most 1500; not empty, not "." or ".."
//	namespace    conda-store: ^[A-Za-z0-9-+_@$&?^~.=]+$, at most 255; not "." or ".."
//	environment  the same
//	user         the same, the first a letter, digit or "_"
//	path         relative, "/"-separated, at most 1024 bytes with segments of at most 255; see CleanPath
//
// Every error is a fault.Field: Invalid, naming the field and saying in one sentence what to change. The texts that
// Quetz clients match are kept word for word.
package names
