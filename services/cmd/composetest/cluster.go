package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// cluster drives the containers of one Compose project.
type cluster struct {
	program []string // docker compose or docker-compose
	project string
}

func newCluster(getenv func(string) string) (cluster, error) {
	c := cluster{program: strings.Fields(getenv("COMPOSE")), project: getenv("COMPOSE_PROJECT_NAME")}
	if len(c.program) == 0 || c.project == "" {
		return c, errors.New("COMPOSE and COMPOSE_PROJECT_NAME must be set; run 'make compose-test'")
	}
	return c, nil
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func (c cluster) composeOutput(ctx context.Context, args ...string) (string, error) {
	return output(ctx, c.program[0], append(c.program[1:len(c.program):len(c.program)], args...)...)
}

func (c cluster) compose(ctx context.Context, args ...string) error {
	_, err := c.composeOutput(ctx, args...)
	return err
}

func (c cluster) docker(ctx context.Context, args ...string) error {
	_, err := output(ctx, "docker", args...)
	return err
}

// containers lists the running ones of a service, or of all.
func (c cluster) containers(ctx context.Context, service string) ([]string, error) {
	args := []string{"ps", "--quiet", "--no-trunc", "--filter", "label=com.docker.compose.project=" + c.project}
	if service != "" {
		args = append(args, "--filter", "label=com.docker.compose.service="+service)
	}
	out, err := output(ctx, "docker", args...)
	return strings.Fields(out), err
}

// containerAt finds a service's container by its address.
func (c cluster) containerAt(ctx context.Context, ip, service string) (string, error) {
	ids, err := c.containers(ctx, service)
	if err != nil {
		return "", err
	}
	for _, id := range ids {
		out, err := output(ctx, "docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", id)
		if err != nil {
			return "", err
		}
		for _, have := range strings.Fields(out) {
			if have == ip {
				return id, nil
			}
		}
	}
	return "", fmt.Errorf("no container of %s has the address %s", service, ip)
}

// gatewayIP is the address by which containers reach this machine.
func (c cluster) gatewayIP(ctx context.Context) (string, error) {
	out, err := output(ctx, "docker", "network", "inspect", "--format", "{{range .IPAM.Config}}{{.Gateway}} {{end}}", c.project+"_default")
	if err != nil {
		return "", err
	}
	for _, ip := range strings.Fields(out) {
		if !strings.Contains(ip, ":") {
			return ip, nil
		}
	}
	return "", fmt.Errorf("the network of %s has no IPv4 gateway", c.project)
}

// adminKey reads the first administrator's key, as `make up` tells people to: there is no shell in the image.
func (c cluster) adminKey(ctx context.Context) (string, error) {
	ids, err := c.containers(ctx, "identity")
	if err != nil {
		return "", err
	}
	if len(ids) != 1 {
		return "", fmt.Errorf("%d containers of identity run", len(ids))
	}
	out, err := output(ctx, "docker", "cp", ids[0]+":/var/lib/entrepot/admin-key", "-")
	if err != nil {
		return "", err
	}
	t := tar.NewReader(strings.NewReader(out))
	if _, err := t.Next(); err != nil {
		return "", err
	}
	key, err := io.ReadAll(t)
	return strings.TrimSpace(string(key)), err
}

// healthy waits until every container runs, and those that can tell say that they are ready.
func (c cluster) healthy(ctx context.Context) error {
	var last string
	for deadline := time.Now().Add(3 * time.Minute); ; {
		// One that exited, other than the migration, is on its way back or gone for good; both are waited for here.
		out, err := output(ctx, "docker", "ps", "--all", "--filter", "label=com.docker.compose.project="+c.project,
			"--format", `{{.Label "com.docker.compose.service"}} {{.Status}}`)
		if err != nil {
			return err
		}
		if last = unready(out); last == "" {
			return nil
		}
		if time.Now().After(deadline) {
			fmt.Fprint(os.Stderr, out)
			return fmt.Errorf("not ready after three minutes: %s", last)
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// unready returns the lines, `<service> <status>`, of containers that are not up, or not ready.
func unready(ps string) string {
	var bad []string
	for line := range strings.Lines(ps) {
		line = strings.TrimSpace(line)
		service, status, _ := strings.Cut(line, " ")
		up := strings.HasPrefix(status, "Up") && !strings.Contains(status, "(health: starting)") && !strings.Contains(status, "(unhealthy)")
		if !up && !(service == "migrate" && strings.HasPrefix(status, "Exited (0)")) {
			bad = append(bad, line)
		}
	}
	return strings.Join(bad, "; ")
}
