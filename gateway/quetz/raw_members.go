package quetz

import (
	"net/http"
	"regexp"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

func membersOf(resp *channelsv1.ListMembersResponse) []member {
	out := make([]member, 0, len(resp.GetMembers()))
	for _, m := range resp.GetMembers() {
		out = append(out, member{m.GetRole(), userOf(m.GetUser())})
	}
	return out
}

// memberForm reads who shall have which role.
func memberForm(r *http.Request) (username, role string, err error) {
	f, err := readForm(r)
	if err != nil {
		return "", "", err
	}
	if f.require("username") {
		username, _ = f.string("username")
	}
	if f.require("role") {
		role, _ = f.string("role")
		checkRole(f, role)
	}
	return username, role, f.err()
}

func (d *dialect) listPackageMembers(w http.ResponseWriter, r *http.Request) error {
	resp, err := d.Channels.ListPackageMembers(r.Context(), &channelsv1.ListPackageMembersRequest{Channel: r.PathValue("channel"), Package: r.PathValue("package")})
	if err != nil {
		return err
	}
	edge.WriteJSON(w, http.StatusOK, "application/json", membersOf(resp))
	return nil
}

func (d *dialect) addPackageMember(w http.ResponseWriter, r *http.Request) error {
	username, role, err := memberForm(r)
	if err != nil {
		return err
	}
	_, err = d.Channels.AddPackageMember(r.Context(), &channelsv1.AddPackageMemberRequest{
		Channel: r.PathValue("channel"), Package: r.PathValue("package"), Username: username, Role: role,
	})
	if err != nil {
		return unknownUser(err, username)
	}
	return writeNull(w, http.StatusCreated)
}

func (d *dialect) removePackageMember(w http.ResponseWriter, r *http.Request) error {
	name := r.URL.Query().Get("username")
	if name == "" {
		return queryMissing("username")
	}
	_, err := d.Channels.RemovePackageMember(r.Context(), &channelsv1.RemovePackageMemberRequest{
		Channel: r.PathValue("channel"), Package: r.PathValue("package"), Username: name,
	})
	if err != nil {
		return unknownUser(err, name)
	}
	return writeNull(w, http.StatusOK)
}

var packagePattern = regexp.MustCompile(`^[a-z0-9-_\.]*$`)

func (d *dialect) createPackage(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(r)
	if err != nil {
		return err
	}
	req := &channelsv1.CreatePackageRequest{Channel: r.PathValue("channel")}
	if f.require("name") {
		req.Name, _ = f.string("name")
		if f.err() == nil && !packagePattern.MatchString(req.Name) {
			f.fail("name", "string_pattern_mismatch", `String should match pattern '^[a-z0-9-_\.]*$'`)
		}
	}
	req.Summary, _ = f.string("summary")
	req.Description, _ = f.string("description")
	if err := f.err(); err != nil {
		return err
	}
	if _, err := d.Channels.CreatePackage(r.Context(), req); err != nil {
		return err
	}
	return writeNull(w, http.StatusCreated)
}

// copyPackage lists a file of another channel here; what to copy stands in the query.
func (d *dialect) copyPackage(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	for _, name := range []string{"source_channel", "source_package", "subdir", "filename"} {
		if q.Get(name) == "" {
			return queryMissing(name)
		}
	}
	channel := r.PathValue("channel")
	_, err := d.Channels.CopyFile(r.Context(), &channelsv1.CopyFileRequest{
		Channel: channel, SourceChannel: q.Get("source_channel"), SourcePackage: q.Get("source_package"), Subdir: q.Get("subdir"), Filename: q.Get("filename"),
	})
	if err != nil {
		return err
	}
	d.Files.Changed(channel)
	return writeNull(w, http.StatusCreated)
}
