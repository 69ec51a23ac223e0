// Package activate says what it means to be in a conda environment: which variables are set, and which scripts of the
// environment a shell reads.
//
//	PATH                  the environment's bin, in front
//	CONDA_PREFIX          its directory
//	CONDA_DEFAULT_ENV     its name
//	CONDA_SHLVL           how many environments are active, one upon the other
//	CONDA_PREFIX_<n>      the one below
//	variables             etc/conda/env_vars.d/*.json in the order of their names, then conda-meta/state; never those above
//	__CONDA_SHLVL_<n>_X   what the variable X was before, to be restored when the environment is left
//	scripts               etc/conda/activate.d/*.sh in code-point order; on leaving deactivate.d/*.sh, the other way round
//
// Nothing here runs anything. [Load] reads an environment, [Environment.Variables] gives what a program that is started
// in it should have, and [Environment.Script] and [Environment.Leave] are text for a shell to evaluate. What comes from
// the environment's files is quoted, so that it stays a value whatever it holds; the scripts of activate.d are programs
// of the packages, and evaluating the text runs them.
package activate
