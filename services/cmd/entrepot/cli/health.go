package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

func healthCommand() *cobra.Command {
	var live bool
	cmd := &cobra.Command{
		Use: "health", Short: "Ask a running process whether it can do its work; for probes of containers",
		Long: `Ask the operations address of a running process whether all its parts can do their work, and print each part.
Exit code 0 if it is ready, 1 if not, 5 if it cannot be reached.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			path := "ready"
			if live {
				path = "live"
			}
			req, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, "http://"+cfg.OpsAddr+"/healthz/"+path, nil)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			// The process is on this machine or in this pod; a proxy has no business in between.
			client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
			resp, err := client.Do(req)
			if err != nil {
				return &exitError{exitOffline, err}
			}
			defer resp.Body.Close()
			var h struct {
				Status string            `json:"status"`
				Parts  map[string]string `json:"parts"`
			}
			if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&h); err != nil {
				return &exitError{exitFailed, fmt.Errorf("the answer is not one of Entrepot's: %w", err)}
			}
			fmt.Fprintln(cmd.OutOrStdout(), h.Status)
			for _, name := range slices.Sorted(maps.Keys(h.Parts)) {
				fmt.Fprintf(cmd.OutOrStdout(), "  %s: %s\n", name, h.Parts[name])
			}
			if resp.StatusCode != http.StatusOK {
				return &exitError{code: exitFailed}
			}
			return nil
		},
	}
	addSettings(cmd)
	cmd.Flags().BoolVar(&live, "live", false, "only ask whether the process is alive")
	return cmd
}
