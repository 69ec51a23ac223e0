// Package backup writes an installation down so that it can be built anew elsewhere, and builds it.
//
// A backup is a directory, or a tar of one:
//
//	database.dump     pg_dump's custom format, of one snapshot
//	master-key        opens the sealed keys and credentials in the database
//	config.yaml       the settings in force, without secrets; for people
//	blobs.txt         digest and size of each blob that the snapshot refers to
//	blobs/ab/abcd…    the blobs themselves, if they were asked for
//	backup.json       what this is, with the digest of each file above; written last
//
// The snapshot comes first and the blobs after it. A blob is durable before a row names it, and garbage collection gives
// what lost its last reference a day: so everything that the snapshot names is there while it is copied, and nothing has
// to stop. A backup has its final name only when it is complete.
//
// JetStream is not part of it. Jobs are rows; what was queued or running is dispatched again.
//
// Whoever has a backup has the keys of the installation: the files are readable by their owner only.
package backup

import (
	"time"

	"github.com/entrepot-dev/entrepot/pkg/blob"
)

// format is the number in backup.json; a reader refuses a later one.
const format = 1

const (
	fileSummary  = "backup.json"
	fileDatabase = "database.dump"
	fileKey      = "master-key"
	fileConfig   = "config.yaml"
	fileBlobs    = "blobs.txt"
)

// Summary is backup.json.
type Summary struct {
	Format int `json:"format"`
	// Version is of the binary that wrote it.
	Version string    `json:"version"`
	Created time.Time `json:"created"`
	// PostgreSQL is the server's version.
	PostgreSQL string `json:"postgresql"`
	// Schemas are the migrations that the database has.
	Schemas map[string]int64 `json:"schemas"`
	Blobs   Blobs            `json:"blobs"`
	// Files are the others, by name.
	Files map[string]File `json:"files"`
}

// Blobs counts the blobs of a backup.
type Blobs struct {
	Count int64 `json:"count"`
	Bytes int64 `json:"bytes"`
	// Included is false if only the manifest is there.
	Included bool `json:"included"`
	// Damaged is how many were missing or rotten when the backup was made.
	Damaged int64 `json:"damaged"`
}

// File describes a file of a backup.
type File struct {
	Size   int64       `json:"size"`
	SHA256 blob.Digest `json:"sha256"`
}

// entry is a line of blobs.txt. A damaged blob has the size -1.
type entry struct {
	digest blob.Digest
	size   int64
}

func blobName(d blob.Digest) string {
	s := d.String()
	return "blobs/" + s[:2] + "/" + s
}
