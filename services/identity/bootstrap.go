package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// BootstrapConfig says what a new installation begins with.
type BootstrapConfig struct {
	// AdminKeyFile gets the first key, mode 0600. If it holds a key already, that key is taken: a start that was
	// interrupted goes on, and an operator may choose the key.
	AdminKeyFile string
	// Dev makes the users of the dialects' examples (alice, bob, carol, dave) instead of admin.
	Dev bool
}

type firstUser struct{ username, name, avatar, role string }

// Bootstrap makes the first users of an installation that has none, and does nothing otherwise. It returns whether it
// did. The first user owns the server and the key in AdminKeyFile.
func (s *Service) Bootstrap(ctx context.Context, cfg BootstrapConfig) (done bool, err error) {
	users := []firstUser{{username: "admin", name: "Admin", role: authz.Owner}}
	if cfg.Dev {
		users = []firstUser{
			{"alice", "Alice", "/avatar.jpg", authz.Owner},
			{"bob", "Bob", "/avatar.jpg", authz.Member},
			{"carol", "Carol", "/avatar.jpg", authz.Member},
			{"dave", "Dave", "/avatar.jpg", authz.Member},
		}
	}
	ctx = authn.NewContext(ctx, authn.Service("identity"))
	_, err = s.change(ctx, func(tx pgx.Tx, st store) error {
		switch found, err := st.anyUser(ctx); {
		case err != nil:
			return err
		case found:
			return errUnchanged
		}
		full, err := s.adminKey(cfg.AdminKeyFile)
		if err != nil {
			return err
		}
		for i, first := range users {
			u, err := st.insertUser(ctx, first.username, first.name, first.avatar)
			if err != nil {
				return err
			}
			if err := st.setRole(ctx, "user/"+u.ID, "server", first.role); err != nil {
				return err
			}
			details := map[string]any{"id": u.ID, "role": first.role}
			if i == 0 {
				hash := authn.HashKey(full)
				key := apiKey{ID: full[:authn.KeyIDLength], UserID: u.ID, Hash: hash[:], Description: "made at the first start"}
				if _, err := st.insertKey(ctx, key, nil); err != nil {
					return err
				}
				details["key"] = key.ID
			}
			if err := audit.Record(ctx, tx, audit.Event{Action: "user.create", Resource: "user/" + u.Username, Details: details}); err != nil {
				return err
			}
		}
		done = true
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("make the first users: %w", err)
	}
	return done, nil
}

// adminKey returns the key in the file, or a new one that it wrote there. The file comes before the commit: a key that
// was lost between the two could never be shown again.
func (s *Service) adminKey(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		full := strings.TrimSpace(string(text))
		if _, ok := authn.ParseKeyID(full); !ok || len(full) != authn.KeyLength {
			return "", fault.New(fault.Precondition, "%s exists and does not hold an API key of %d letters and digits: move it away", path, authn.KeyLength)
		}
		return full, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	full, _, _, err := authn.NewAPIKey(s.random)
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(full + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	return full, errors.Join(dir.Sync(), dir.Close())
}
