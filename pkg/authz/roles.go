package authz

// The roles. Every kind of resource knows the same three; what they hold differs.
const (
	Owner      = "owner"
	Maintainer = "maintainer"
	Member     = "member"
)

// ValidRole reports whether role is one of the three.
func ValidRole(role string) bool { return role == Owner || role == Maintainer || role == Member }

// Permission is what an RPC asks for in its access option.
type Permission = string

// The permissions. Those on the server:
const (
	// UsersRead shows all users; anybody sees themselves.
	UsersRead Permission = "users.read"
	// UsersManage makes and deletes users.
	UsersManage Permission = "users.manage"
	// GroupsManage makes groups and says who is in them.
	GroupsManage Permission = "groups.manage"
	// RolesGrantMember gives the server role member to those who have none.
	RolesGrantMember Permission = "roles.grant_member"
	// RolesGrant gives and takes any server role.
	RolesGrant Permission = "roles.grant"
	// NamespacesManage makes tenants and gives roles on them.
	NamespacesManage Permission = "namespaces.manage"
	// AuditRead shows the audit log.
	AuditRead Permission = "audit.read"
	// StorageRead shows how much is stored.
	StorageRead Permission = "storage.read"
	// StorageManage starts garbage collection and scrubs, and shows what they found.
	StorageManage Permission = "storage.manage"
	// JobsManage shows, cancels and repeats everybody's jobs and starts those that belong to no channel.
	JobsManage Permission = "jobs.manage"
)

// Permissions on a namespace:
const (
	// ChannelsCreate makes hosted channels.
	ChannelsCreate Permission = "channels.create"
	// ChannelsCreateMirror makes mirrors and proxies.
	ChannelsCreateMirror Permission = "channels.create_mirror"
	// ChannelsLimit sets how much a channel may hold.
	ChannelsLimit Permission = "channels.limit"
)

// Permissions on a channel; those marked P also mean something on one package.
const (
	// ChannelRead shows a channel and its files (P). Anyone holds it on public channels.
	ChannelRead Permission = "channel.read"
	// ChannelUpload adds files (P).
	ChannelUpload Permission = "channel.upload"
	// ChannelOverwrite replaces files (P).
	ChannelOverwrite Permission = "channel.overwrite"
	// ChannelFilesDelete takes packages and files away (P).
	ChannelFilesDelete Permission = "channel.files.delete"
	// ChannelPackagesCreate makes packages and copies files in.
	ChannelPackagesCreate Permission = "channel.packages.create"
	// PackageMembersManage gives and takes roles on a package (P).
	PackageMembersManage Permission = "channel.packages.members.manage"
	// ChannelUpdate changes settings, mirrors and index files.
	ChannelUpdate Permission = "channel.update"
	// ChannelDelete deletes the channel.
	ChannelDelete Permission = "channel.delete"
	// ChannelSync runs a sync, rebuilds indexes, pulls metrics.
	ChannelSync Permission = "channel.sync"
	// ChannelMembersRead lists members.
	ChannelMembersRead Permission = "channel.members.read"
	// ChannelMembersManage adds and removes members.
	ChannelMembersManage Permission = "channel.members.manage"
	// ChannelCleanup removes what the database and the store do not agree on.
	ChannelCleanup Permission = "channel.cleanup"
	// ChannelValidate checks every stored package again.
	ChannelValidate Permission = "channel.validate"
)

type permissions map[Permission]bool

func set(ps ...Permission) permissions {
	out := make(permissions, len(ps))
	for _, p := range ps {
		out[p] = true
	}
	return out
}

func (p permissions) and(others ...permissions) permissions {
	out := make(permissions)
	for _, m := range append(others, p) {
		for k := range m {
			out[k] = true
		}
	}
	return out
}

// What each role holds. The columns of the Quetz role table are the channel, package and server rows; "S+", which
// passes every check of a channel or package, is the server's owner and maintainer.
var (
	packageMember     = set(ChannelRead)
	packageMaintainer = packageMember.and(set(ChannelUpload, ChannelFilesDelete))
	packageOwner      = packageMaintainer.and(set(ChannelOverwrite, PackageMembersManage))

	channelMember     = set(ChannelRead)
	channelMaintainer = channelMember.and(set(
		ChannelUpload, ChannelFilesDelete, ChannelPackagesCreate, PackageMembersManage,
		ChannelUpdate, ChannelDelete, ChannelSync, ChannelMembersRead,
	))
	channelOwner = channelMaintainer.and(set(ChannelOverwrite, ChannelMembersManage, ChannelCleanup))

	// A tenant's people do in its channels what the channels' own do.
	namespaceMember     = channelMember.and(set(ChannelsCreate))
	namespaceMaintainer = channelMaintainer.and(namespaceMember)
	namespaceOwner      = channelOwner.and(namespaceMaintainer)

	// A server member makes channels in the default namespace; other tenants are not theirs.
	serverMember     = set()
	serverMaintainer = namespaceOwner.and(set(
		UsersRead, UsersManage, GroupsManage, RolesGrantMember, NamespacesManage, AuditRead, StorageRead, StorageManage, JobsManage,
		ChannelsCreateMirror, ChannelsLimit, ChannelValidate,
	))
	serverOwner = serverMaintainer.and(set(RolesGrant))

	serverMemberInDefault = set(ChannelsCreate)
)

// table holds, for the kind of resource that a role is on, what the role holds there and inside.
var table = map[Kind]map[string]permissions{
	Server:    {Owner: serverOwner, Maintainer: serverMaintainer, Member: serverMember},
	Namespace: {Owner: namespaceOwner, Maintainer: namespaceMaintainer, Member: namespaceMember},
	Channel:   {Owner: channelOwner, Maintainer: channelMaintainer, Member: channelMember},
	Package:   {Owner: packageOwner, Maintainer: packageMaintainer, Member: packageMember},
}

// serverOnly are the permissions that a part of the platform does not hold when it acts as itself: they are about
// people, not about content.
var serverOnly = set(UsersRead, UsersManage, GroupsManage, RolesGrantMember, RolesGrant, NamespacesManage, AuditRead)

// Known reports whether any role holds the permission. A service with an RPC that asks for another one does not start.
func Known(p Permission) bool { return serverOwner[p] }

// lookup answers which roles a subject has on the resources around r.
type lookup func(resource string) (roles []string)

// allows reports whether the roles that find tells of allow permission on r.
func allows(find lookup, permission Permission, r Resource) bool {
	on := func(k Kind, resource string) bool {
		for _, role := range find(resource) {
			if table[k][role][permission] {
				return true
			}
			if k == Server && role == Member && r.Kind == Namespace && r.Name == DefaultNamespace && serverMemberInDefault[permission] {
				return true
			}
		}
		return false
	}
	if on(Server, "server") {
		return true
	}
	if r.Kind != Server && r.Namespace != "" && on(Namespace, "namespace/"+r.Namespace) {
		return true
	}
	if (r.Kind == Channel || r.Kind == Package) && r.ID != "" && on(Channel, "channel/"+r.ID) {
		return true
	}
	return r.Kind == Package && on(Package, r.String())
}
