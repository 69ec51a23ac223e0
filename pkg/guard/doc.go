// Package guard names the checks on which the platform's promises rest, one constant each, so that a build without one
// can be made to show that the promise breaks without it:
//
//	go build -tags unguarded_hold ./services/cmd/entrepot
//
// A test that passes proves little unless it fails when what it tests is taken away. `make chaos` runs each of its
// scenarios twice, against the program as it is and against one built with the scenario's tag, and demands that the
// second run fails.
//
// Each constant is used in exactly one place, as in
//
//	if guard.Head && locked.Head != from {
//		return lostRace(…)
//	}
//
// They are constants, not variables: in a program built without tags there is nothing to switch off, and the compiler
// removes the test. Only with the tag `unguarded` are they variables, and CHAOS_UNGUARDED names the one to remove: a
// single build then shows what is lost without each of them, where sixteen would take too long. A guard belongs here if a fault of the outside world (a kill, a full disk, a lost message) would
// cause loss, a duplicate or a lie without it. Checks of a request's fields do not.
//
// [All] lists them with what is lost without each.
package guard
