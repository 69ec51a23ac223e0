// Package solve finds sets of conda packages that fit together.
//
// # What an answer is
//
// A [Request] names specs and a machine; an [Index] holds what channels offer. An answer has at most one package of
// each name, everything that its packages depend on, nothing that one of its packages constrains away, and the virtual
// packages of the machine. There are usually very many answers, and there is no best one: candidates of a name are
// ordered, the search takes the first that works, and so the order is the contract. It is that of rattler:
//
//  1. records without track_features
//  2. the channel's place, where the priority is flexible
//  3. the version, newest first (or oldest, by strategy)
//  4. the build number, highest first
//  5. the versions that the dependencies shared by all candidates equal so far allow, in alphabetic order of names
//  6. when it was built, newest first
//  7. the name of the file, .tar.bz2 before .conda: the order of a repodata as every indexer writes it
//
// # How it searches
//
// The search is conflict-driven clause learning, after the published design of resolvo. Variables stand for packages;
// clauses say "a needs b1 or b2", "a forbids c", "not d and e":
//
//	request ──▶ encoder ──clauses──▶ search ──solution──▶ conditions that came true? ──no──▶ done
//	               ▲                   │                              │
//	               └───────────────────┼───────────yes────────────────┘
//	                                   └─conflict at the bottom──▶ explanation
//
// "At most one of a name" is encoded in binary: candidate number n implies the bits of n, so that n candidates cost
// n·log n clauses and no two of them fit. Packages have clauses of their own ([Plain]), or share a list of candidates
// behind a gate, and a constraint as one variable that says "violated" ([Shared]); [Auto] begins with the former and
// goes over to the latter where it meets many conflicts. What a condition (CEP 43) or an extra (CEP 44) asks for is
// encoded only when a solution meets the condition.
//
// A decision goes to the first open requirement in the order of discovery; one whose package was in more conflicts and
// has fewer candidates left overtakes it, and what the user asked for comes before all else. A conflict is resolved
// down to its first unique implication point, which is learnt. There are no restarts and nothing is random: equal input
// gives the equal answer.
//
// # When it fails
//
// An [UnsolvableError] carries the explanation as a tree. A solve is bounded in time, memory and conflicts
// ([LimitError]) and stops within milliseconds when its context ends.
//
// # Resident use
//
// An Index keeps what it learns about specs: parsed dependencies, matches and orders, for a few sets of virtual
// packages. A service makes one for each generation of its channels and solves on it concurrently. What a request
// brings along (its specs, locks, favoured packages) is never kept. What an index is made of are arenas (package arena): of
// half a million records only those become candidates whose names a solve comes across.
//
// [Platforms] are the indexes of several platforms, which share the noarch subdirs and all that is known about specs, and are
// asked together.
package solve
