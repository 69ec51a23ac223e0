// Package authn says who calls.
//
// There are two worlds. Outside, people and machines show an API key or a login cookie; only the edge sees those, and
// asks identity whose they are. Inside, every gRPC call carries an internal token: a compact JWS (RFC 7515) signed
// with Ed25519 (RFC 8037) by identity, good for sixty seconds and for one service.
//
//	client ── API key ──► gateway ── MintToken(principal, audience) ──► identity
//	                         │                                              │ signs
//	                         ▼                                              ▼
//	                    entrepot-token: <JWS aud=channels> ──► channels ── Verifier, public keys only
//
// A token says who the Caller is, not what the caller may do: roles are looked up in a snapshot (package authz) when
// the call arrives, so that a revoked role or key stops working long before the token ends. Also an anonymous caller
// has a token; a call without one never came through the edge and is refused.
//
// Signer and Verifier are the two ends. A TokenSource keeps tokens on the client's side, so that a call costs a map
// lookup, not a signature; a Verifier remembers the tokens it has checked for the same reason.
package authn
