// Package matchspec implements the query language for conda packages (CEP 29), as it stands in dependencies, in
// environment files and on command lines.
//
//	(channel(/subdir):(namespace):)name(version(build))[key=value,…]
//
// A spec has been written in many ways over the years, and all of them are still out there:
//
//	numpy                     any version                 numpy >=1.8,<2|==1.9.3    a version spec
//	numpy=1.8                 the family 1.8              numpy 1.8.*               the same
//	numpy==1.8                exactly 1.8                 numpy 1.8                 the same
//	numpy=1.8=py39*           exactly 1.8, build glob     numpy 1.8 py39_0          exactly 1.8, that build
//	numpy[version='>=1.8']    brackets, which override    conda-forge/noarch::numpy channel and subdir
//	numpy[when="python<3.9"]  a condition (CEP 43)        numpy[extras=[test]]      optional groups (CEP 44)
//
// # Two modes
//
// The lenient mode reads what real channels contain and decides as conda and rattler's lenient parser do. The strict
// mode is for input that people write to us today: it refuses what can only be a mistake and reports what is doubtful
// through [Options.Warn].
//
// # Where implementations leave CEP 29
//
// Two readings are worth knowing, since the standard and the tools disagree:
//
//	pkg =1.8 b     CEP 29: family 1.8. conda and lenient parsers: exactly 1.8, for "=1.8=b" has always meant that.
//	               Lenient does as they do; strict follows the standard and warns.
//	pkg!=1.8       CEP 29's words: not the family. Every implementation: not exactly 1.8, and so both modes here.
//	               Only "!=1.8.*" excludes the family.
//
// # Print and parse
//
// [Spec.Canonical] prints the canonical form of CEP 29, which parses back to an equal spec in both modes.
package matchspec
