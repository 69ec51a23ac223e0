package channels

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// BuildMonoliths builds a subdir's large index files, as the job does, and returns the number of records.
func BuildMonoliths(ctx context.Context, s *Service, channel, subdir string) (int64, error) {
	id, err := uuid.Parse(channel)
	if err != nil {
		return 0, err
	}
	m, err := s.buildMonoliths(ctx, id, subdir, true)
	return m.records, err
}

// WithGzipAfter makes gzip an extra of documents of more than n bytes.
func (c Config) WithGzipAfter(n int64) Config {
	c.gzipWithIndex = n
	return c
}

// WithExtrasPause sets the least pause between two builds of the same extras.
func (c Config) WithExtrasPause(d time.Duration) Config {
	c.extrasPause = d
	return c
}

// WithSpliceFrom sets from which size on a repodata.json is made from the one before.
func (c Config) WithSpliceFrom(n int64) Config {
	c.spliceFrom = n
	return c
}

// WithPastRecords sets how many records of the past are built while a reader waits.
func (c Config) WithPastRecords(n int) Config {
	c.pastRecords = n
	return c
}

// WithStageAll stages all publications in tables.
func (c Config) WithStageAll() Config { c.stageAll = true; return c }
