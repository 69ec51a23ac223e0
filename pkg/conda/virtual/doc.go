// Package virtual knows the virtual packages of conda (CEP 30 and 46): the properties of a machine that packages may
// depend on as if they were packages.
//
//	__unix=0=0          __linux=6.8=0        __glibc=2.39=0
//	__cuda=12.4=0       __cuda_arch=8.6=0    __archspec=1=x86_64_v3
//
// There are two ways to a set of them. A machine that solves for itself detects: [Host.Detect] reads what the kernel
// and the C library say about themselves, as files, without running a program. A service that solves for other
// machines starts from [Defaults] of the target platform or takes the whole set from its caller, and stores the set
// with the result.
//
// Each can be overridden by a variable CONDA_OVERRIDE_<NAME>, in upper case and without underscores in front. An empty
// value removes the package. The environment is given by the caller, like the file system: this package reads neither
// by itself. Overrides describe the machine they are set on, so they are ignored when the target is another platform.
package virtual
