package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/config"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "Check the configuration, or show what is in force",
		Long: `Settings come from defaults, then the YAML file, then variables such as ENTREPOT_SYNC__DOWNLOADS (two underscores go one
level down), then flags. An unknown key is an error that names its line.`,
	}
	check := &cobra.Command{
		Use: "check", Short: "Read the configuration and say what is wrong with it; exit code 2 if anything is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := loadSettings(cmd); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "ok")
			return nil
		},
	}
	show := &cobra.Command{
		Use: "show", Short: "Print the configuration in force as YAML, without secrets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			out, err := config.Show(cfg)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}
	for _, c := range []*cobra.Command{check, show} {
		addSettings(c)
		cmd.AddCommand(c)
	}
	return cmd
}
