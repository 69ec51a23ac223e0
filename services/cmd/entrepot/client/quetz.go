package client

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/pkgtree"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/quetzdb"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

func (a *app) importCommand() *cobra.Command {
	return group("import", "Move another server here", a.importQuetzCommand())
}

// quetzOptions are the flags of import quetz.
type quetzOptions struct {
	database, store string
	dryRun, merge   bool
	keepKeys        bool
	keysFile        string
	channels        []string
	concurrency     int
}

func (a *app) importQuetzCommand() *cobra.Command {
	var opts quetzOptions
	c := &cobra.Command{
		Use: "quetz", Short: "Move a Quetz server here: users, channels, packages, members, keys, counts", Args: want(),
		Long: `Reads the database of a Quetz server (sqlite:///path or postgresql://user:password@host/name) and its package store (a
directory or s3://bucket/prefix with <channel>/<subdir>/<file>; {channel} in the URL stands for the channel's name where each
has a bucket), and makes the same here. The Quetz server may go on running; nothing is changed there. You need a key of an
owner of the server.

A channel can be read by its members only until it is complete. What has the name of something else here is left alone and
named, unless --merge says that it is the same. The command can be repeated: what was moved is not moved again, so a first run
beforehand leaves little for the last one. Mirrors and proxies come over with their settings; their files come with the next
sync.

Quetz keeps its API keys in the clear. --keep-keys lets them go on working here, where only their SHA-256 is kept;
--keys-file writes new ones into a file that only you can read. Otherwise no key comes over.`,
		Example: `  entrepot import quetz --database sqlite:////srv/quetz/quetz.sqlite --store /srv/quetz/channels --dry-run
  ENTREPOT_QUETZ_DATABASE=postgresql://quetz:…@db/quetz entrepot import quetz --store 's3://quetz-{channel}?endpoint=s3.example.org' --keep-keys`,
	}
	c.RunE = a.run(func(cmd *cobra.Command, c *restclient.Client, _ []string) error {
		opts.database = cmp.Or(opts.database, a.getenv("ENTREPOT_QUETZ_DATABASE"))
		switch {
		case opts.database == "":
			return fault.Field("--database", "--database (or ENTREPOT_QUETZ_DATABASE) names the Quetz database")
		case opts.store == "":
			return fault.Field("--store", "--store names the directory or bucket that the packages are in")
		case opts.keepKeys && opts.keysFile != "":
			return fault.Field("--keys-file", "--keep-keys and --keys-file exclude each other")
		case opts.concurrency < 1 || opts.concurrency > 64:
			return fault.Field("--concurrency", "--concurrency must lie between 1 and 64")
		}
		db, err := quetzdb.Open(cmd.Context(), opts.database)
		if err != nil {
			return err
		}
		defer db.Close()
		m := &quetzMove{a: a, cmd: cmd, c: c, db: db, opts: opts}
		err = m.run(cmd.Context())
		if cmd.Context().Err() != nil {
			note(cmd, "interrupted; run the same command again to go on")
			return quiet{exitInterrupted}
		}
		return m.report.finish(a, cmd, err)
	})
	f := c.Flags()
	f.StringVar(&opts.database, "database", "", "the Quetz database (or ENTREPOT_QUETZ_DATABASE, which others on this machine cannot see)")
	f.StringVar(&opts.store, "store", "", "where the Quetz server keeps its packages")
	f.BoolVar(&opts.dryRun, "dry-run", false, "only say what would be moved")
	f.BoolVar(&opts.merge, "merge", false, "take users and channels of the same name for the same")
	f.BoolVar(&opts.keepKeys, "keep-keys", false, "let the Quetz API keys work here")
	f.StringVar(&opts.keysFile, "keys-file", "", "give out new API keys, and write them into this file")
	f.StringSliceVar(&opts.channels, "channel", nil, "only this channel; may be repeated")
	f.IntVar(&opts.concurrency, "concurrency", min(4, runtime.NumCPU()), "how many batches of packages are sent at the same time")
	a.outputFlag(c)
	return c
}

// moved counts what came over.
type moved struct {
	Found   int `json:"found"`
	Added   int `json:"added"`
	Present int `json:"present"`
	Skipped int `json:"skipped"`
}

// quetzReport says what came of a move.
type quetzReport struct {
	Source         string          `json:"source"`
	DryRun         bool            `json:"dry_run"`
	Users          moved           `json:"users"`
	Channels       moved           `json:"channels"`
	Packages       moved           `json:"packages"`
	Files          moved           `json:"files"`
	Members        moved           `json:"members"`
	Mirrors        moved           `json:"mirrors"`
	Keys           moved           `json:"keys"`
	Downloads      int64           `json:"downloads"`
	DownloadsLost  int64           `json:"downloads_not_moved"`
	Bytes          int64           `json:"bytes"`
	LeftIdentities int64           `json:"logins_not_moved"`
	LeftJobs       int64           `json:"jobs_not_moved"`
	Problems       []importProblem `json:"problems"`
}

func (r *quetzReport) problem(path, reason, format string, args ...any) {
	r.Problems = append(r.Problems, importProblem{path, reason, fmt.Sprintf(format, args...)})
}

func (r *quetzReport) finish(a *app, cmd *cobra.Command, err error) error {
	if r.Problems == nil {
		r.Problems = []importProblem{}
	}
	slices.SortStableFunc(r.Problems, func(a, b importProblem) int { return strings.Compare(a.Path, b.Path) })
	if a.output != "table" {
		if perr := a.printStructured(cmd.OutOrStdout(), r); err == nil {
			err = perr
		}
	} else if perr := r.table(cmd); err == nil {
		err = perr
	}
	for _, p := range r.Problems {
		note(cmd, "%s: %s", printable(p.Path), printable(p.Error))
	}
	if err == nil && len(r.Problems) > 0 {
		err = fault.New(fault.Internal, "%d things were not moved", len(r.Problems))
	}
	return err
}

func (r *quetzReport) table(cmd *cobra.Command) error {
	added := "ADDED"
	if r.DryRun {
		added = "WOULD ADD"
	}
	rows := [][]string{{"WHAT", "FOUND", added, "ALREADY THERE", "LEFT OUT"}}
	for _, l := range []struct {
		name string
		m    moved
	}{{"users", r.Users}, {"channels", r.Channels}, {"packages", r.Packages}, {"files", r.Files}, {"roles", r.Members}, {"mirrors", r.Mirrors}, {"API keys", r.Keys}} {
		rows = append(rows, []string{l.name, fmt.Sprint(l.m.Found), fmt.Sprint(l.m.Added), fmt.Sprint(l.m.Present), fmt.Sprint(l.m.Skipped)})
	}
	rows = append(rows, []string{"downloads", fmt.Sprint(r.Downloads + r.DownloadsLost), fmt.Sprint(r.Downloads), "", fmt.Sprint(r.DownloadsLost)},
		[]string{"logins at providers", fmt.Sprint(r.LeftIdentities), "0", "", fmt.Sprint(r.LeftIdentities)}, []string{"jobs", fmt.Sprint(r.LeftJobs), "0", "", fmt.Sprint(r.LeftJobs)})
	return table(cmd.OutOrStdout(), rows)
}

// quetzMove is a move under way.
type quetzMove struct {
	a      *app
	cmd    *cobra.Command
	c      *restclient.Client
	db     *quetzdb.DB
	opts   quetzOptions
	report quetzReport

	me string // login name of who moves
	// users are those that came over or are the same here, by their Quetz id: their login name here.
	users map[string]string
	// roles are the channel and package roles by user id, those of pseudo users included.
	roles map[string][]quetzdb.Member
	// done are the channels that came over, by their Quetz name.
	done map[string]bool
}

// run moves everything, in the order in which things need each other.
func (m *quetzMove) run(ctx context.Context) error {
	m.report.Source, m.report.DryRun = m.db.Name, m.opts.dryRun
	me, err := m.c.Me(ctx)
	if err != nil {
		return err
	}
	if m.me = me.GetUser().GetUsername(); me.GetUser().GetRole() != "owner" || me.GetScoped() {
		return fault.New(fault.Denied, "only an owner of the server can move another one here, with a key of no roles of its own")
	}
	if err := m.moveUsers(ctx); err != nil {
		return fmt.Errorf("move users: %w", err)
	}
	members, err := m.db.Members(ctx)
	if err != nil {
		return err
	}
	m.roles, m.done = map[string][]quetzdb.Member{}, map[string]bool{}
	byChannel := map[string][]quetzdb.Member{}
	for _, r := range members {
		m.roles[r.UserID] = append(m.roles[r.UserID], r)
		byChannel[r.Channel] = append(byChannel[r.Channel], r)
	}
	channels, err := m.db.Channels(ctx)
	if err != nil {
		return err
	}
	for _, ch := range channels {
		if len(m.opts.channels) > 0 && !slices.Contains(m.opts.channels, ch.Name) {
			continue
		}
		m.report.Channels.Found++
		if err := m.moveChannel(ctx, ch, byChannel[ch.Name]); err != nil {
			return fmt.Errorf("move channel %s: %w", ch.Name, err)
		}
	}
	if err := m.moveKeys(ctx); err != nil {
		return fmt.Errorf("move API keys: %w", err)
	}
	if m.report.LeftIdentities, err = m.db.Rows(ctx, "identities"); err != nil {
		return err
	}
	m.report.LeftJobs, err = m.db.Rows(ctx, "jobs")
	return err
}

// moveUsers makes the users that are not there.
func (m *quetzMove) moveUsers(ctx context.Context) error {
	m.users = map[string]string{}
	theirs, err := m.db.Users(ctx)
	if err != nil {
		return err
	}
	ours, err := m.c.Users(ctx, "")
	if err != nil {
		return err
	}
	byName := map[string]*identityv1.User{}
	for _, u := range ours {
		byName[strings.ToLower(u.GetUsername())] = u
	}
	r := &m.report.Users
	for _, u := range theirs {
		if u.Username == "" {
			continue
		}
		r.Found++
		role := u.Role
		if !slices.Contains([]string{"owner", "maintainer", "member"}, role) {
			role = ""
		}
		old := byName[strings.ToLower(u.Username)]
		switch {
		case old != nil && !m.opts.merge && old.GetName() != cmp.Or(u.Name, u.Username):
			r.Skipped++
			m.report.problem("user/"+u.Username, "USER_EXISTS", "there is a user of this name, who is called %s and not %s; --merge takes them for the same", old.GetName(), cmp.Or(u.Name, u.Username))
			continue
		case old != nil:
			r.Present++
			m.users[u.ID] = old.GetUsername()
			continue
		case m.opts.dryRun:
			r.Added++
			m.users[u.ID] = u.Username
			continue
		}
		made, err := m.c.CreateUser(ctx, &identityv1.CreateUserRequest{Username: u.Username, Name: cmp.Or(u.Name, u.Username), AvatarUrl: u.AvatarURL, Role: role})
		if fault.Is(err, fault.Invalid) {
			r.Skipped++
			m.report.problem("user/"+u.Username, "USER_INVALID", "%v", err)
			continue
		}
		if err != nil {
			return err
		}
		r.Added++
		m.users[u.ID] = made.GetUsername()
	}
	return nil
}

// storeOf opens where a channel's packages are, and says under which directory.
func (m *quetzMove) storeOf(ctx context.Context, channel string) (tree pkgtree.Tree, dir string, err error) {
	if strings.Contains(m.opts.store, "{channel}") {
		tree, err = pkgtree.Open(ctx, strings.ReplaceAll(m.opts.store, "{channel}", channel), m.a.getenv)
		return tree, "", err
	}
	if tree, err = pkgtree.Open(ctx, m.opts.store, m.a.getenv); err != nil {
		return nil, "", err
	}
	// The store of a deployment in a directory is its subdirectory channels; either may have been named.
	for _, dir := range []string{channel, "channels/" + channel} {
		if subdirs, err := pkgtree.Subdirs(ctx, tree, dir); err == nil && len(subdirs) > 0 {
			return tree, dir, nil
		}
	}
	return tree, channel, nil
}
