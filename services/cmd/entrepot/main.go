// Command entrepot is the whole platform in one binary: the server with all its targets, its upkeep, and the client.
package main

import (
	"os"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
