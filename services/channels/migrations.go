package channels

import (
	"embed"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is the PostgreSQL schema of this service. Only this package writes to it.
var Schema = pg.Schema{Name: "channels", FS: migrations}
