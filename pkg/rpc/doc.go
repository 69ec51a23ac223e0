// Package rpc is how the parts of the platform talk: one gRPC server and one kind of client, with the same rules on
// every call, whether it crosses a network or stays in the process.
//
// # Server
//
// A call passes these interceptors, the same for unary calls and streams:
//
//	recovery       a panic becomes Internal; its details stay in the log
//	request id     taken from the caller or made; every log line and audit event has it
//	error mapping  package fault's kinds become statuses with ErrorInfo, BadRequest, RetryInfo; also those of what follows
//	logging
//	authn          the internal token (package authn) for the audience that the method's proto package names
//	authz          the method's access option, by the role snapshot (package authz), on the resource that a field names
//	validation     checks registered with Validate
//
// Default is deny: a Server with a method that has no access option, asks for an unknown permission, or names a kind of
// resource that nobody resolves, refuses to serve. Only health and reflection need none.
//
// # Client
//
// A Network knows which services run in this process and where the others are. Dial returns an in-memory connection or
// one to `dns:///host:port`; the code above cannot tell. Each call waits until the server is ready, has a deadline,
// acts as the authn.Caller of its context, and returns the *fault.Error that the handler returned.
//
//	conn, err := network.Dial("channels")
//	client := channelsv1.NewChannelServiceClient(conn)
//	ch, err := client.GetChannel(ctx, …)          // as the caller that ctx carries
//	ch, err = client.Resolve(rpc.AsTarget(ctx), …) // as this process
package rpc
