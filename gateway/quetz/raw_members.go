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

// memberOf reads who shall have which role.
func memberOf(f *form) (username, role string, err error) {
	if f.require("username") {
		username, _ = f.text("username")
	}
	if f.require("role") {
		var ok bool
		if role, ok = f.text("role"); ok {
			checkRole(f, role)
		}
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
	f, err := readForm(r)
	if err != nil {
		return err
	}
	if _, err := d.Channels.GetPackage(r.Context(), &channelsv1.GetPackageRequest{Channel: r.PathValue("channel"), Package: r.PathValue("package")}); err != nil {
		return err
	}
	username, role, err := memberOf(f)
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
	f, _, err := d.channelForm(r, r.PathValue("channel"), isHosted)
	if err != nil {
		return err
	}
	req := &channelsv1.CreatePackageRequest{Channel: r.PathValue("channel")}
	if f.require("name") {
		var ok bool
		if req.Name, ok = f.text("name"); ok {
			f.atMost("name", req.Name, 1500)
			if !packagePattern.MatchString(req.Name) {
				f.failWith("name", "string_pattern_mismatch", "String should match pattern '"+packagePattern.String()+"'", map[string]any{"pattern": packagePattern.String()})
			}
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
