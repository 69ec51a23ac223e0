package condacli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/version"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// maxLine bounds one line of input: what does not fit is no version and no spec.
const maxLine = 1 << 20

// question answers one line of tab-separated fields; an error becomes the line's answer.
type question func(fields []string) (string, error)

// lineCommand makes a command that answers its arguments, or without arguments every line of standard input.
func lineCommand(use, short, long string, fields []string, ask question) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != len(fields) {
				return fault.New(fault.Invalid, "give %s, or nothing to read lines from standard input (see '%s --help')", strings.Join(fields, " and "), cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				answer, err := ask(args)
				if err != nil {
					return fault.New(fault.Invalid, "%w", err)
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), answer)
				return err
			}
			return answerLines(cmd.InOrStdin(), cmd.OutOrStdout(), fields, ask)
		},
	}
}

func answerLines(in io.Reader, out io.Writer, fields []string, ask question) error {
	w := bufio.NewWriterSize(out, 64<<10)
	sc := bufio.NewScanner(in)
	sc.Buffer(make([]byte, 64<<10), maxLine)
	for sc.Scan() {
		parts := strings.SplitN(strings.TrimSuffix(sc.Text(), "\r"), "\t", len(fields))
		answer, err := "", error(nil)
		if len(parts) < len(fields) {
			err = fmt.Errorf("a line holds %s, separated by tabs", strings.Join(fields, " and "))
		} else {
			answer, err = ask(parts)
		}
		if err != nil {
			answer = "!ERR " + strings.NewReplacer("\n", " ", "\t", " ").Replace(err.Error())
		}
		w.WriteString(answer)
		w.WriteByte('\n')
	}
	err := sc.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		err = fault.New(fault.Invalid, "a line of standard input is longer than %d bytes", maxLine)
	}
	return errors.Join(w.Flush(), err)
}

func (a *app) versionCommand() *cobra.Command {
	c := &cobra.Command{Use: "version", Short: "Compare versions (CEP 33) and match them against version specs (CEP 29)", Args: cobra.NoArgs}
	c.AddCommand(
		lineCommand("compare [A B]", "Say which of two versions is older: -1, 0 or 1",
			"Prints -1 if A is older than B, 0 if they are equal, 1 if A is newer. Without arguments every line of standard input\nis read as A<tab>B and answered by one line; what is no version is answered by !ERR and the reason.",
			[]string{"A", "B"}, func(f []string) (string, error) {
				va, err := version.Parse(f[0])
				if err != nil {
					return "", err
				}
				vb, err := version.Parse(f[1])
				if err != nil {
					return "", err
				}
				return strconv.Itoa(version.Compare(va, vb)), nil
			}),
		lineCommand("match [SPEC VERSION]", "Say whether a version spec selects a version: 1 or 0",
			"Prints 1 if SPEC, such as '>=1.8,<2', selects VERSION, else 0. Without arguments every line of standard input is read\nas SPEC<tab>VERSION and answered by one line, with !ERR and the reason where it cannot be.",
			[]string{"SPEC", "VERSION"}, func(f []string) (string, error) {
				spec, err := version.ParseSpec(f[0])
				if err != nil {
					return "", err
				}
				v, err := version.Parse(f[1])
				if err != nil {
					return "", err
				}
				if spec.Match(v) {
					return "1", nil
				}
				return "0", nil
			}),
	)
	return c
}

func (a *app) specCommand() *cobra.Command {
	c := &cobra.Command{Use: "spec", Short: "Read match specs (CEP 29)", Args: cobra.NoArgs}
	c.AddCommand(lineCommand("canonical [SPEC]", "Print a match spec in its canonical form",
		"Without an argument every line of standard input is read as a spec and answered by one line; what is no match spec is\nanswered by !ERR and the reason.",
		[]string{"SPEC"}, func(f []string) (string, error) {
			spec, err := matchspec.Parse(f[0], matchspec.Options{ChannelNames: condaChannels})
			if err != nil {
				return "", err
			}
			return spec.Canonical(), nil
		}))
	return c
}

// condaChannels are the members of conda's multichannel "defaults", by which name conda prints them.
var condaChannels = map[string]string{"pkgs/main": "defaults", "pkgs/r": "defaults", "pkgs/msys2": "defaults"}
