-- +goose Up

-- One row is one blob that a scrub found damaged. It stays for a while after it was resolved.
CREATE TABLE storage.findings (
    digest      bytea       PRIMARY KEY CHECK (length(digest) = 32),
    problem     text        NOT NULL CHECK (problem IN ('corrupt', 'missing', 'unreadable')),
    size        bigint      NOT NULL,
    quarantined boolean     NOT NULL,                           -- the bytes were taken out of service
    detail      text        NOT NULL,
    found_at    timestamptz NOT NULL DEFAULT now(),
    last_at     timestamptz NOT NULL DEFAULT now(),             -- found again
    resolved_at timestamptz                                     -- whole again, or nobody refers to it any more
);
CREATE INDEX findings_open ON storage.findings (digest) WHERE resolved_at IS NULL;

-- One row is the pass of one kind of scrub that is under way, or the last one. A pass may take many attempts of several
-- jobs: each goes on after cursor.
CREATE TABLE storage.passes (
    mode          text        PRIMARY KEY CHECK (mode IN ('scrub', 'dry-run')),
    cursor        bytea       NOT NULL,                         -- the last digest that was looked at
    checked       bigint      NOT NULL DEFAULT 0,
    checked_bytes bigint      NOT NULL DEFAULT 0,
    corrupt       bigint      NOT NULL DEFAULT 0,
    missing       bigint      NOT NULL DEFAULT 0,
    unreadable    bigint      NOT NULL DEFAULT 0,
    resolved      bigint      NOT NULL DEFAULT 0,
    started_at    timestamptz NOT NULL DEFAULT now(),
    finished_at   timestamptz
);
