package condacli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/conda/gateway"
	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/solve"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func (a *app) searchCommand() *cobra.Command {
	var flags channelFlags
	var asJSON bool
	var limit int
	c := &cobra.Command{
		Use: "search [flags] SPEC", Short: "List the packages that a spec selects, the best first",
		Long: `List the packages of channels that a spec selects, by name and in the order in which a solve would try them. The name
may be a pattern: '*numpy*', or a regular expression '^py.*$'.`,
		Example: `  entrepot conda search -c ./channel 'numpy >=1.26'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fault.New(fault.Invalid, "give one SPEC (see '%s --help')", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := matchspec.Parse(args[0], matchspec.Options{})
			if err != nil {
				return fault.New(fault.Invalid, "SPEC: %w", err)
			}
			channels, err := flags.resolve(a)
			if err != nil {
				return err
			}
			opts, err := flags.options(a, warnTo(cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			opts.Names, opts.Direct = rootNames([]matchspec.Spec{spec}), true
			res, err := gateway.Load(cmd.Context(), channels, opts)
			if err != nil {
				return err
			}
			ix, err := solve.NewIndex(res.Repos)
			if err != nil {
				return err
			}
			found := ix.Find(&spec)
			records := make([]record, 0, len(found))
			for i, p := range found {
				if limit > 0 && i >= limit {
					break
				}
				records = append(records, recordOf(p))
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), map[string]any{"records": records, "total": len(found)}, "  ")
			} else if len(found) > 0 {
				if err = writeTable(cmd.OutOrStdout(), records); err == nil && len(records) < len(found) {
					fmt.Fprintf(cmd.ErrOrStderr(), "the best %d of %d; see --limit\n", len(records), len(found))
				}
			} else {
				fmt.Fprintf(cmd.ErrOrStderr(), "nothing matches %s\n", spec.String())
			}
			if err == nil && len(found) == 0 {
				err = negative{}
			}
			return err
		},
	}
	flags.register(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().IntVar(&limit, "limit", 0, "print at most this many; 0 prints all")
	return c
}
