// Package image makes container images of environments, layer by layer out of cached pieces.
//
//	manifest
//	├ config                 platform, variables, one history entry a layer
//	├ layers of the base     if there is one
//	├ python                 a layer for each of the largest packages, 100 at most
//	├ numpy
//	├ … bucket 0 … 15        the rest, by the hash of a package's name
//	└ the environment        conda-meta, history, and files that others hide; small
//
// A layer is a segment (see package segment) with the zeros that end a tar: what a package becomes below the prefix. It
// depends on that package alone, so an image that differs in one package differs in one layer and in the last one, a
// registry is asked for each layer whether it has it, and another image with the same package shares its bytes. Buckets
// bound the number of layers, because overlay file systems stop at about 127: a package that changes moves the one bucket
// that its name falls into. Where two packages have a path, the loser's segment is made without it, so no layer deletes
// what another one brought.
//
// # On a base
//
// Layers name the directories above the prefix as the base has them, with their owners and modes: /tmp stays sticky. A base
// whose layers have Docker's media types gets OCI's in an OCI manifest, and the other way round; the bytes are the same. No
// package may have a name that begins with .wh., which in a layer deletes what other layers brought.
//
// # What runs in it
//
// PATH begins with the prefix's bin, CONDA_PREFIX and what goes with it are set, and so are the variables that packages ask
// for in etc/conda/env_vars.d, but for PATH and CONDA_*. Scripts in etc/conda/activate.d are programs, which nothing runs here; a caller that has run
// them hands over what they changed as Options.Env.
//
// # What is promised
//
// The same packages and options make the same digests: of layers, config and manifest. Nothing in them says when or where
// they were made.
package image
