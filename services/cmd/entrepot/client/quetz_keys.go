package client

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/quetzdb"
)

// newKey is a line of the file of --keys-file.
type newKey struct {
	Username    string `json:"username"`
	Description string `json:"description"`
	// Was is how the key began at the Quetz server.
	Was string `json:"was"`
	Key string `json:"key"`
}

// moveKeys moves the API keys, as they are or as new ones.
func (m *quetzMove) moveKeys(ctx context.Context) error {
	keys, err := m.db.Keys(ctx)
	if err != nil {
		return err
	}
	var file *keysFile
	if m.opts.keysFile != "" && !m.opts.dryRun {
		if file, err = openKeysFile(m.opts.keysFile); err != nil {
			return err
		}
		defer file.f.Close()
	}
	r := &m.report.Keys
	for _, k := range keys {
		r.Found++
		req, err := m.keyRequest(k)
		if err == nil && m.opts.keysFile == "" && !m.opts.keepKeys {
			r.Skipped++
			continue
		}
		if err == nil && m.opts.dryRun {
			r.Added++
			continue
		}
		if err == nil && file != nil {
			req.Id, req.Sha256, err = file.issue(req, k)
		}
		if err == nil {
			_, err = m.c.ImportKey(ctx, req)
		}
		switch {
		case err == nil:
			r.Added++
		case fault.Is(err, fault.Invalid), fault.Is(err, fault.Conflict), fault.Is(err, fault.NotFound):
			r.Skipped++
			m.report.problem("api-key/"+shortKey(k.Key), "KEY", "%v", err)
		default:
			return err
		}
	}
	return nil
}

// shortKey is what may be shown of a key.
func shortKey(key string) string { return key[:min(6, len(key))] + "…" }

// keyRequest says what a key is here; Invalid if it cannot be anything.
func (m *quetzMove) keyRequest(k quetzdb.Key) (*identityv1.ImportApiKeyRequest, error) {
	user := m.users[k.OwnerID]
	if user == "" {
		return nil, fault.New(fault.Invalid, "its owner was not moved")
	}
	req := &identityv1.ImportApiKeyRequest{Username: user, Description: clip(k.Description, 300)}
	if !k.Expires.IsZero() {
		end := k.Expires.Truncate(24 * time.Hour).Add(24 * time.Hour) // it is valid through that day
		if !end.After(m.a.now()) {
			return nil, fault.New(fault.Invalid, "it has expired")
		}
		req.ExpireTime = timestamppb.New(end)
	}
	if m.opts.keysFile == "" && m.opts.keepKeys {
		id, ok := authn.ParseKeyID(k.Key)
		if !ok || len(k.Key) != authn.ImportedKeyLength {
			return nil, fault.New(fault.Invalid, "it does not have %d letters and digits, as the keys of Quetz have; give out a new one", authn.ImportedKeyLength)
		}
		hash := authn.HashKey(k.Key)
		req.Id, req.Sha256 = id, hex.EncodeToString(hash[:])
	}
	if k.UserID == k.OwnerID {
		return req, nil
	}
	for _, role := range m.roles[k.UserID] {
		if !m.done[role.Channel] && !m.opts.dryRun {
			continue
		}
		resource := "channel/" + role.Channel
		if role.Package != "" {
			resource = "package/" + role.Channel + "/" + role.Package
		}
		req.Roles = append(req.Roles, &identityv1.RoleGrant{Role: role.Role, Resource: resource})
	}
	if len(req.GetRoles()) == 0 {
		return nil, fault.New(fault.Invalid, "it has roles of its own, and none of them is on a channel that was moved") // without any it would act as its owner
	}
	return req, nil
}

// keysFile is the file that new keys are written into. A key is in the file before it is valid: a run that is interrupted
// loses none, and the next one takes up those that are there.
type keysFile struct {
	f    *os.File
	have map[string]newKey
}

func openKeysFile(name string) (*keysFile, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fault.Field("--keys-file", "cannot write the keys: %v", err)
	}
	k := &keysFile{f: f, have: map[string]newKey{}}
	err = k.read()
	if err != nil {
		_ = f.Close()
		return nil, fault.Field("--keys-file", "%s is not what this command writes; name another file", name)
	}
	if st, err := f.Stat(); err != nil || st.Mode().Perm()&0o077 != 0 {
		_ = f.Close()
		return nil, errors.Join(err, fault.Field("--keys-file", "%s can be read by others; make it %s", name, fs.FileMode(0o600)))
	}
	return k, nil
}

func (k *keysFile) read() error {
	lines := bufio.NewScanner(k.f)
	for lines.Scan() {
		var one newKey
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil || len(one.Key) != authn.KeyLength {
			return errors.Join(err, errors.New("no key"))
		}
		k.have[one.Username+"\x00"+one.Was] = one
	}
	return lines.Err()
}

// issue makes a key in place of an old one, or takes the one that was made before.
func (k *keysFile) issue(req *identityv1.ImportApiKeyRequest, old quetzdb.Key) (id, hash string, err error) {
	one := newKey{Username: req.GetUsername(), Description: req.GetDescription(), Was: old.Key[:min(8, len(old.Key))]}
	made, ok := k.have[one.Username+"\x00"+one.Was]
	if !ok {
		if one.Key, _, _, err = authn.NewAPIKey(rand.Reader); err != nil {
			return "", "", err
		}
		line, err := json.Marshal(one)
		if err != nil {
			return "", "", err
		}
		_, err = k.f.Write(append(line, '\n'))
		if err = errors.Join(err, k.f.Sync()); err != nil {
			return "", "", fmt.Errorf("write the new keys: %w", err)
		}
		made, k.have[one.Username+"\x00"+one.Was] = one, one
	}
	sum := authn.HashKey(made.Key)
	return made.Key[:authn.KeyIDLength], hex.EncodeToString(sum[:]), nil
}
