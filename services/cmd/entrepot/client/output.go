package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/gateway/edge"
)

// marshal spells a message as the REST API does.
func marshal(m proto.Message) (json.RawMessage, error) {
	return (&edge.Marshaler{}).Marshal(m)
}

// printList prints items in the form that was asked for; rows holds the header and a row per item.
func printList[M proto.Message](a *app, cmd *cobra.Command, items []M, rows [][]string) error {
	if a.output == "table" {
		return table(cmd.OutOrStdout(), rows)
	}
	list := make([]json.RawMessage, len(items))
	for i, m := range items {
		var err error
		if list[i], err = marshal(m); err != nil {
			return err
		}
	}
	return a.printStructured(cmd.OutOrStdout(), list)
}

// printOne prints one thing; lines are its table: pairs of name and value.
func (a *app) printOne(cmd *cobra.Command, m proto.Message, lines [][]string) error {
	if a.output == "table" {
		return table(cmd.OutOrStdout(), lines)
	}
	data, err := marshal(m)
	if err != nil {
		return err
	}
	return a.printStructured(cmd.OutOrStdout(), data)
}

func (a *app) printStructured(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if a.output == "yaml" {
		if data, err = yaml.JSONToYAML(data); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}

// table aligns columns. What strangers typed must not move the cursor, so control characters become question marks.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = printable(cell)
		}
		if _, err := fmt.Fprintln(t, strings.TrimRight(strings.Join(row, "\t"), "\t")); err != nil {
			return err
		}
	}
	return t.Flush()
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// when spells a time to the second; absent is a dash.
func when(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
