-- +goose Up
-- One row is one job. The row outlives the work, until the sweeper's retention removes it.
CREATE TABLE jobs.jobs (
    id               uuid PRIMARY KEY,                              -- version 7: sorts by creation
    seq              bigint GENERATED ALWAYS AS IDENTITY UNIQUE,    -- for dialects that number their tasks
    kind             text NOT NULL,
    args_type        text NOT NULL,                                 -- full name of the proto message in args
    args             bytea NOT NULL,                                -- as sent: fields this version does not know survive
    state            text NOT NULL CHECK (state IN ('queued', 'scheduled', 'running', 'succeeded', 'dead', 'cancelled')),
    priority         smallint NOT NULL CHECK (priority BETWEEN 0 AND 2), -- 0 high, 1 normal, 2 low
    namespace        text NOT NULL,
    principal_name   text NOT NULL DEFAULT '',
    principal        bytea NOT NULL DEFAULT '',
    resource         text NOT NULL DEFAULT '',
    coalesce_key     text,
    lock_resources   text[] NOT NULL DEFAULT '{}',
    lock_exclusive   boolean[] NOT NULL DEFAULT '{}',
    claim            bigint NOT NULL DEFAULT 0,                     -- the fencing token: only grows
    failures         integer NOT NULL DEFAULT 0,                    -- burned attempts
    max_failures     integer NOT NULL DEFAULT 0,                    -- 0 until the first claim writes the kind's value
    cancel_requested boolean NOT NULL DEFAULT false,
    last_error       text NOT NULL DEFAULT '',
    result           bytea,                                         -- JSON
    progress_done    bigint NOT NULL DEFAULT 0,
    progress_total   bigint NOT NULL DEFAULT 0,
    progress_bytes   bigint NOT NULL DEFAULT 0,
    progress_message text NOT NULL DEFAULT '',
    schedule_id      uuid,
    traceparent      text NOT NULL DEFAULT '',
    tracestate       text NOT NULL DEFAULT '',
    created_at       timestamptz NOT NULL DEFAULT now(),
    start_at         timestamptz,                                   -- scheduled: due then
    queued_at        timestamptz,
    dispatched_at    timestamptz,                                   -- queued: a message is in the stream since then
    parked_at        timestamptz,                                   -- queued: waits for a lock since then
    started_at       timestamptz,                                   -- of the latest attempt
    finished_at      timestamptz,
    CHECK (cardinality(lock_resources) = cardinality(lock_exclusive))
);

-- Coalescing. An index that also covered running jobs would lose work: what arrives while one runs needs another run.
CREATE UNIQUE INDEX jobs_coalesce ON jobs.jobs (kind, coalesce_key) WHERE state = 'queued' AND coalesce_key IS NOT NULL;
CREATE INDEX jobs_coalesce_running ON jobs.jobs (kind, coalesce_key) WHERE state = 'running' AND coalesce_key IS NOT NULL;
CREATE INDEX jobs_coalesce_scheduled ON jobs.jobs (kind, coalesce_key) WHERE state = 'scheduled' AND coalesce_key IS NOT NULL;
CREATE INDEX jobs_window ON jobs.jobs (kind, priority) WHERE state = 'queued' AND dispatched_at IS NOT NULL;
CREATE INDEX jobs_due ON jobs.jobs (start_at) WHERE state = 'scheduled';
CREATE INDEX jobs_live ON jobs.jobs (kind, state, created_at) WHERE state IN ('queued', 'scheduled', 'running');
CREATE INDEX jobs_by_namespace ON jobs.jobs (namespace, seq DESC);
CREATE INDEX jobs_by_resource ON jobs.jobs (resource text_pattern_ops, seq DESC) WHERE resource <> '';
CREATE INDEX jobs_by_state ON jobs.jobs (state, seq DESC);
CREATE INDEX jobs_by_schedule ON jobs.jobs (schedule_id, seq DESC) WHERE schedule_id IS NOT NULL;
CREATE INDEX jobs_finished ON jobs.jobs (finished_at) WHERE finished_at IS NOT NULL;

-- Who runs what, until when, and how far it is. Apart from jobs.jobs, so that Hold (a share lock there) never
-- waits for a heartbeat, nor a heartbeat for Hold.
CREATE TABLE jobs.leases (
    job        uuid PRIMARY KEY,
    claim      bigint NOT NULL,
    kind       text NOT NULL,
    runner     text NOT NULL,
    taken_at   timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    done       bigint NOT NULL DEFAULT 0,
    total      bigint NOT NULL DEFAULT 0,
    bytes      bigint NOT NULL DEFAULT 0,
    message    text NOT NULL DEFAULT ''
);
CREATE INDEX leases_expiry ON jobs.leases (expires_at);
CREATE INDEX leases_kind ON jobs.leases (kind);

-- Exclusion: granted rows are held by running jobs, the others belong to queued jobs that wait.
CREATE TABLE jobs.locks (
    resource  text NOT NULL,
    job       uuid NOT NULL,
    seq       bigint NOT NULL,      -- the job's, for first come, first served
    kind      text NOT NULL,
    exclusive boolean NOT NULL,
    granted   boolean NOT NULL,
    PRIMARY KEY (resource, job)
);
CREATE INDEX locks_job ON jobs.locks (job);

-- What still has to become a message. Each dispatch is a row of its own, since its id is the message's id.
CREATE TABLE jobs.outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job         uuid NOT NULL,
    kind        text NOT NULL,
    priority    smallint NOT NULL,
    namespace   text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    released_at timestamptz          -- a relay is publishing it
);
CREATE INDEX outbox_waiting ON jobs.outbox (kind, priority, namespace, id) WHERE released_at IS NULL;
CREATE INDEX outbox_released ON jobs.outbox (released_at) WHERE released_at IS NOT NULL;
CREATE INDEX outbox_job ON jobs.outbox (job);

-- What runners told about their kinds, so that a relay needs no registry.
CREATE TABLE jobs.kinds (
    kind            text PRIMARY KEY,
    paused          boolean NOT NULL DEFAULT false,
    cursors         text[] NOT NULL DEFAULT '{"","",""}', -- per priority: the namespace served last
    max_ack_pending integer NOT NULL DEFAULT 0,
    ack_wait_ms     bigint NOT NULL DEFAULT 30000
);

-- Live slots: the window of a kind is about twice their sum.
CREATE TABLE jobs.slots (
    runner     text NOT NULL,
    kind       text NOT NULL,
    slots      integer NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (runner, kind)
);
CREATE INDEX slots_kind ON jobs.slots (kind);

CREATE TABLE jobs.schedules (
    id             uuid PRIMARY KEY,
    namespace      text NOT NULL,
    name           text NOT NULL,
    kind           text NOT NULL,
    args_type      text NOT NULL,
    args           bytea NOT NULL,
    priority       smallint NOT NULL,
    principal_name text NOT NULL DEFAULT '',
    principal      bytea NOT NULL DEFAULT '',
    resource       text NOT NULL DEFAULT '',
    coalesce_key   text NOT NULL,
    coalesce_how   smallint NOT NULL DEFAULT 0,
    lock_resources text[] NOT NULL DEFAULT '{}',
    lock_exclusive boolean[] NOT NULL DEFAULT '{}',
    max_failures   integer NOT NULL DEFAULT 0,
    cron           text NOT NULL DEFAULT '',
    time_zone      text NOT NULL DEFAULT 'UTC',
    repeat_every   interval,
    start_at       timestamptz,
    paused         boolean NOT NULL DEFAULT false,
    next_at        timestamptz,      -- NULL: never again
    last_at        timestamptz,
    last_job       uuid,
    last_error     text NOT NULL DEFAULT '',
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (namespace, name)
);
CREATE INDEX schedules_due ON jobs.schedules (next_at) WHERE next_at IS NOT NULL AND NOT paused;

-- One row per office; database time decides who holds it.
CREATE TABLE jobs.leader (
    office     text PRIMARY KEY,
    holder     text NOT NULL,
    expires_at timestamptz NOT NULL
);
