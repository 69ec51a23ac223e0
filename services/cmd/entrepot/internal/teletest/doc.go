// Package teletest holds the tests of what the platform says about itself: traces, metrics, logs, and that none of them
// tells a secret. The whole platform runs at debug level with an OTLP receiver of the test's own beside it. There is no
// code in it that runs anywhere else.
//
//	receiver_test.go  the OTLP receiver
//	trace_test.go     one trace, from the HTTP request through the queue to the upstream; strangers join none
//	metrics_test.go   which metrics there are, and that no stranger makes a time series
//	canary_test.go    secrets put in everywhere, and looked for everywhere
package teletest
