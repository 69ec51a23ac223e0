// Package login asks other servers who somebody is: any OpenID Connect provider, and those that only speak OAuth 2
// (GitHub, JupyterHub).
//
// It knows protocols, not users: Begin says where a browser goes, Finish turns what comes back into a Person. Who that is
// here, and what they may do, identity decides.
//
//	kind        protocol                        subject          groups
//	oidc        OpenID Connect, discovered      sub              a claim of the ID token or of userinfo, `groups` unless named
//	gitlab      OpenID Connect                  sub              groups_direct or groups
//	google      OpenID Connect                  sub              none; allowed_domains checks the claim hd
//	azure       OpenID Connect of one tenant    sub              groups (object ids)
//	github      OAuth 2, REST                   number of user   org, and org/team
//	jupyterhub  OAuth 2, REST                   name of user     groups
//
// # Promises
//
// Authorization code only, with PKCE (RFC 7636, S256), a state and, where there are ID tokens, a nonce. An ID token counts
// if its signature verifies with a public key of the provider, and issuer, audience, authorised party, times and nonce are
// what they must be (OpenID Connect Core, 3.1.3.7); `none` and HMAC are no signatures here. Userinfo counts if it is about
// the same subject. An answer that names another issuer (RFC 9207) is refused.
//
// All requests go through the transport that is given, which holds the egress policy. Redirects are not followed, answers
// are at most a mebibyte, and a request takes at most fifteen seconds. No error names a secret.
//
// A provider that is down fails logins, not starts: what must be discovered is asked for when it is needed.
package login
