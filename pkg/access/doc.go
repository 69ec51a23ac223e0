// Package access carries what gateways count to the metrics service: which files were downloaded, and how often.
//
// A [Counter] belongs to one gateway. Count adds one to a number in memory and returns; nothing waits for the bus while
// a client is served. Once a second the numbers become batches, which go to the JetStream stream ACCESS one after another.
// A batch is keyed (instance, epoch, seq): the gateway's data directory, its start, and a number that grows by one. Its
// content never changes once it has a number, and it is published under the same number until the bus has acknowledged
// it, so that whoever adds it up and remembers the number in the same transaction counts every download exactly once.
//
// # What is lost when
//
//	the gateway is killed     what was counted since the last batch: a second's worth
//	the gateway is stopped    nothing, if the bus answers within the time that stopping may take
//	the bus is away           nothing for as long as the counter has room. Numbers wait per file and hour, so room is
//	                          needed for each file that is downloaded, not for each download. Without room, downloads
//	                          of further files are lost, and counted as lost
//	the stream's files        what metrics had not fetched: a second's worth, if metrics runs
//	metrics is away           nothing for a week, or a gibibyte of batches; after that the bus refuses, and is as good
//	                          as away
//
// The stream is a work queue with the default persistence: the server keeps a batch, on disk, before it acknowledges it.
package access
