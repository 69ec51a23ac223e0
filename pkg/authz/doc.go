// Package authz says who may do what.
//
// A binding gives a subject (`user/<uuid>` or `service/<name>`) a role on a resource; roles.go says which permissions a
// role holds there. There are four kinds of resources, one inside the other:
//
//	server                             everything
//	└─ namespace/<name>                a tenant: its channels
//	   └─ channel/<uuid>               one channel
//	      └─ package/<channel>/<name>  one package of it
//
// A role counts on its resource and on what lies inside, as roles.go spells out for each.
//
// Services decide by themselves, from a snapshot of all bindings, users and valid keys that identity publishes. Roles
// follows it: it asks every two seconds, at once when woken by a message on SubjectChanged, and before it refuses
// anybody, so that a role that was granted a moment ago elsewhere is seen. It promises:
//
//   - a role, key or user that is gone stops working within five seconds (StaleAfter), also with the bus down: if
//     identity has not answered for that long, only what is public is allowed;
//   - a role granted before a call began is seen by that call;
//   - deciding costs a few map lookups and no call to anyone, unless the answer would be no.
//
// A key that is narrowed to some roles never allows more than its user may: both have to say yes.
package authz
