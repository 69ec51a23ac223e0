package scenario

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/services/internal/restclient"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

// settle is how long an index may lag behind what was published.
const settle = time.Minute

// Upload uploads files of a sample channel into a hosted channel.
func Upload(ctx context.Context, c *restclient.Client, channel string, from *sample.Channel, files ...sample.File) error {
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(from.Dir, filepath.FromSlash(f.Path)))
		if err != nil {
			return err
		}
		_, name, _ := strings.Cut(f.Path, "/")
		up := restclient.Upload{Channel: channel, Filename: name, Body: bytes.NewReader(data), Size: f.Size, SHA256: f.SHA256}
		if _, _, err := c.Upload(ctx, up); err != nil {
			return fmt.Errorf("upload %s: %w", name, err)
		}
	}
	return nil
}

// Check compares a channel with its source: the index lists exactly the n files, and each has the right bytes.
func Check(ctx context.Context, c *restclient.Client, channel string, want *sample.Channel, n int) error {
	if len(want.Files) != n {
		return fmt.Errorf("the sample has %d files, not %d", len(want.Files), n)
	}
	wanted := map[string]string{}
	for _, f := range want.Files {
		wanted[f.Path] = f.SHA256
	}
	var problem error
	for deadline := time.Now().Add(settle); ; time.Sleep(200 * time.Millisecond) {
		listed, err := listed(ctx, c, channel, want.Subdirs)
		if problem = err; err == nil && maps.Equal(listed, wanted) {
			break
		} else if err == nil {
			problem = fmt.Errorf("%s lists %d files, not the %d of its source", channel, len(listed), len(wanted))
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return problem
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, path := range slices.Sorted(maps.Keys(wanted)) {
		g.Go(func() error {
			data, err := read(ctx, c, channel, path)
			if err != nil {
				return err
			}
			if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != wanted[path] {
				return fmt.Errorf("%s/%s has other bytes than its source", channel, path)
			}
			return nil
		})
	}
	return g.Wait()
}

// listed returns what the index of a channel names, with digests.
func listed(ctx context.Context, c *restclient.Client, channel string, subdirs []string) (map[string]string, error) {
	out := map[string]string{}
	for _, subdir := range subdirs {
		data, err := read(ctx, c, channel, subdir+"/repodata.json")
		if err != nil {
			return nil, err
		}
		type record struct {
			SHA256 string `json:"sha256"`
		}
		var index struct {
			Packages map[string]record `json:"packages"`
			Conda    map[string]record `json:"packages.conda"`
		}
		if err := json.Unmarshal(data, &index); err != nil {
			return nil, fmt.Errorf("%s/%s/repodata.json: %w", channel, subdir, err)
		}
		for _, m := range []map[string]record{index.Packages, index.Conda} {
			for name, r := range m {
				out[subdir+"/"+name] = r.SHA256
			}
		}
	}
	return out, nil
}

func read(ctx context.Context, c *restclient.Client, channel, path string) ([]byte, error) {
	resp, err := c.Open(ctx, channel, path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s/%s: %s", channel, path, resp.Status)
	}
	return io.ReadAll(resp.Body)
}
