//go:build mutate

package apitest

import (
	"slices"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/authz"
)

// looks are the rows that ask for a permission, to be tried first; a row stands for all whose route and case have the text.
var looks = map[authz.Permission][]string{
	authz.UsersRead: {"GET /api/users/{username} -"}, authz.UsersManage: {"DELETE /api/users/{username} -", "DELETE /api/api-keys"},
	authz.RolesGrantMember: {"PUT /api/users/{username}/role member"}, authz.RolesGrant: {"PUT /api/users/{username}/role"},
	authz.JobsManage: {"GET /api/jobs/{id} another", "POST /api/jobs"}, authz.ChannelsCreate: {"POST /api/channels local"},
	authz.ChannelsCreateMirror: {"POST /api/channels proxy"}, authz.ChannelsLimit: {"POST /api/channels size_limit"},
	authz.ChannelRead: {"GET /api/channels/{channel_name} -", "GET /api/channels/{channel_name}/packages/{package_name}"}, authz.ChannelUpload: {"POST /api/channels/{channel}/upload/{filename} -", "POST /api/channels/{channel}/upload/{filename} public -"},
	authz.ChannelOverwrite: {"POST /api/channels/{channel}/upload/{filename} force"}, authz.ChannelFilesDelete: {"DELETE /api/channels/{channel}/packages/{package} "},
	authz.ChannelPackagesCreate: {"POST /api/channels/{channel}/packages "}, authz.PackageMembersManage: {"POST /api/channels/{channel}/packages/{package}/members"},
	authz.ChannelUpdate: {"PATCH /api/channels/{channel} private", "PATCH /api/channels/{channel} public ttl"}, authz.ChannelDelete: {"DELETE /api/channels/{channel} "},
	authz.ChannelSync: {"actions reindex", "actions public reindex"}, authz.ChannelMembersRead: {"GET /api/channels/{channel}/members"},
	authz.ChannelMembersManage: {"POST /api/channels/{channel}/members"}, authz.ChannelCleanup: {"actions cleanup", "actions public cleanup"}, authz.ChannelValidate: {"actions validate_packages", "actions public validate_packages"},
}

// equivalent are entries that change nothing that anybody could see in this dialect, with the reason.
var equivalent = map[string]string{
	"package member lacks channel.overwrite": "who may not upload replaces nothing",
	"server member lacks roles.grant":        "the route asks for roles.grant_member first",
	"server member lacks channels.create":    "it is held in the default namespace, the only one that the dialect knows",
}

// TestMutations turns round each entry of the role table that the dialect has a use for. Each must make a cell of the
// table of rights wrong.
func TestMutations(t *testing.T) {
	people, rows := rightsTable(t)
	c := newCast(t)
	s := c.newStage()
	wrong := func(t *testing.T, row rightsRow) (bad string) {
		s = c.walk(t, people, row, s, func(who string, _ int, _ []byte) { bad = row.route + " " + row.kase + ": " + who })
		return bad
	}
	onChannel := []authz.Permission{
		authz.ChannelRead, authz.ChannelUpload, authz.ChannelOverwrite, authz.ChannelFilesDelete, authz.ChannelPackagesCreate, authz.PackageMembersManage,
		authz.ChannelUpdate, authz.ChannelDelete, authz.ChannelSync, authz.ChannelMembersRead, authz.ChannelMembersManage, authz.ChannelCleanup, authz.ChannelValidate,
	}
	onPackage := []authz.Permission{authz.ChannelRead, authz.ChannelUpload, authz.ChannelOverwrite, authz.ChannelFilesDelete, authz.PackageMembersManage}
	onServer := append([]authz.Permission{
		authz.UsersRead, authz.UsersManage, authz.RolesGrantMember, authz.RolesGrant, authz.JobsManage, authz.ChannelsCreate, authz.ChannelsCreateMirror, authz.ChannelsLimit,
	}, onChannel...)
	entries := slices.Concat(authz.Entries(authz.Channel, onChannel...), authz.Entries(authz.Package, onPackage...), authz.Entries(authz.Server, onServer...))
	try := func(t *testing.T, permission authz.Permission, flip func() (undo func())) {
		undo := flip()
		defer func() { undo() }()
		c.calm = func() (again func()) { // new stages are made with the true table
			undo()
			return func() { undo = flip() }
		}
		defer func() { c.calm = nil }()
		first := func(row rightsRow) bool {
			return slices.ContainsFunc(looks[permission], func(l string) bool { return strings.Contains(row.route+" "+row.kase, l) })
		}
		for _, early := range []bool{true, false} {
			for _, row := range rows {
				if first(row) == early {
					if bad := wrong(t, row); bad != "" {
						t.Logf("noticed by %s", bad)
						return
					}
				}
			}
		}
		t.Error("nothing in the table of rights is about this")
	}
	for _, e := range entries {
		if equivalent[e.String()] != "" {
			continue
		}
		t.Run(e.String(), func(t *testing.T) { try(t, e.Permission, func() func() { return authz.Flip(e) }) })
	}
	t.Run("server member makes channels", func(t *testing.T) { try(t, authz.ChannelsCreate, authz.FlipDefaultNamespace) })
	t.Run("and the table as it is makes none wrong", func(t *testing.T) {
		for _, row := range rows {
			if bad := wrong(t, row); bad != "" {
				t.Error(bad)
			}
		}
	})
}
