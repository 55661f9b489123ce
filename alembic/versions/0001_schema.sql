-- The schema of pgqueue, whole. {schema} is the only placeholder: an escaped identifier.
-- `queue` leads every key of the tables a task lives in, so that they can be distributed by it.

CREATE TYPE {schema}.status AS ENUM (
    'scheduled', 'blocked', 'ready', 'running', 'succeeded', 'dead', 'cancelled', 'ignored', 'deleted'
);

-- Idle runners move it ahead to the second until which they want notice: no row, so no bloat and no snapshot.
CREATE SEQUENCE {schema}.wake AS bigint MINVALUE 0 START 0;

-- Time-ordered ids for rows put in by hand; uuidv7() is built in from PostgreSQL 18 on only.
CREATE FUNCTION {schema}.new_id() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
SET search_path = pg_catalog AS $$
    SELECT encode(
        substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
        || set_byte(substring(random FROM 7), 0, (get_byte(random, 6) & 15) | 112),
        'hex')::uuid
    FROM uuid_send(gen_random_uuid()) AS random
$$;

-- Names match ignoring case, `-` and `_`.
CREATE FUNCTION {schema}.fold(name text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT lower(translate(name, '-_', '')) $$;

-- ── where tasks live ────────────────────────────────────────────────────────────────────────────────────────────

-- Unfinished business. Every column has a default but `type`, so that a plain INSERT is a proper enqueue.
-- No foreign key may ever point here: its FOR KEY SHARE locks would make claims skip the row.
CREATE TABLE {schema}.task (
    queue               text            NOT NULL DEFAULT 'default',
    id                  uuid            NOT NULL DEFAULT {schema}.new_id(),
    type                text            NOT NULL,
    status              {schema}.status NOT NULL DEFAULT 'scheduled',
    priority            smallint        NOT NULL DEFAULT 100,
    payload             jsonb           NOT NULL DEFAULT '{}',
    maturity_at         timestamptz     NOT NULL DEFAULT clock_timestamp(),
    expires_at          timestamptz,
    created_at          timestamptz     NOT NULL DEFAULT clock_timestamp(),
    updated_at          timestamptz     NOT NULL DEFAULT clock_timestamp(),
    attempt             integer         NOT NULL DEFAULT 0,
    crashes             smallint        NOT NULL DEFAULT 0,
    runner_id           uuid,
    claim_id            uuid,
    claimed_at          timestamptz,
    cancel_requested_at timestamptz,
    cancel_reason       text,
    blocked_on          text,
    unique_key          bytea,
    tags                text[],
    headers             jsonb,
    options             jsonb,
    lineage             jsonb,
    CONSTRAINT task_pkey PRIMARY KEY (queue, id),
    CONSTRAINT task_status_is_unfinished CHECK (status IN ('scheduled', 'blocked', 'ready', 'running')),
    CONSTRAINT task_queue_length CHECK (length(queue) BETWEEN 1 AND 200),
    CONSTRAINT task_type_length CHECK (length(type) BETWEEN 1 AND 200),
    -- −32,768 has no negative, and claims order by −priority.
    CONSTRAINT task_priority_range CHECK (priority >= -32767),
    -- The stored size, which needs no decompression: checks run on every update too. What is no object fails to decode in its attempt.
    CONSTRAINT task_payload_size CHECK (pg_column_size(payload) <= 33554432),
    -- Python's datetime knows neither infinity nor the years before 1 and after 9999.
    CONSTRAINT task_maturity_range CHECK (maturity_at >= '0002-01-01 00:00+00' AND maturity_at < '9999-01-01 00:00+00'),
    CONSTRAINT task_expires_range CHECK (expires_at >= '0002-01-01 00:00+00' AND expires_at < '9999-01-01 00:00+00'),
    CONSTRAINT task_created_range CHECK (created_at >= '0002-01-01 00:00+00' AND created_at < '9999-01-01 00:00+00'),
    CONSTRAINT task_attempt_range CHECK (attempt >= 0 AND crashes >= 0),
    CONSTRAINT task_unique_key_length CHECK (length(unique_key) = 32),
    CONSTRAINT task_blocked_on_something CHECK ((status = 'blocked') = (blocked_on IS NOT NULL)),
    -- A runner stands on running rows and on no others: settles rely on it.
    CONSTRAINT task_running_has_runner CHECK ((status = 'running') = (runner_id IS NOT NULL)),
    CONSTRAINT task_running_is_claimed CHECK (status <> 'running' OR (claim_id IS NOT NULL AND claimed_at IS NOT NULL))
) WITH (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.1, autovacuum_vacuum_insert_scale_factor = 0.2
);

-- Claims walk this one: only ready tasks are in it.
CREATE INDEX task_ready ON {schema}.task (queue, (-priority), maturity_at, id) WHERE status = 'ready';
-- Promotion walks this one, so a million future tasks cost a claim nothing.
CREATE INDEX task_scheduled ON {schema}.task (queue, maturity_at, id) WHERE status = 'scheduled';
CREATE INDEX task_blocked ON {schema}.task (queue, type, id) WHERE status = 'blocked';
-- Rescue, give-back and cancellation look for what a runner holds.
CREATE INDEX task_running ON {schema}.task (runner_id, id) WHERE status = 'running';
CREATE UNIQUE INDEX task_unique ON {schema}.task (queue, unique_key) WHERE unique_key IS NOT NULL;
CREATE INDEX task_expires ON {schema}.task (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX task_tags ON {schema}.task USING gin (tags) WHERE tags IS NOT NULL;

-- Tasks that used up their tries, until retried or purged.
CREATE TABLE {schema}.dead_task (
    queue       text        NOT NULL,
    id          uuid        NOT NULL,
    type        text        NOT NULL,
    priority    smallint    NOT NULL,
    payload     jsonb       NOT NULL,
    maturity_at timestamptz NOT NULL,
    created_at  timestamptz NOT NULL,
    started_at  timestamptz,
    finished_at timestamptz NOT NULL,
    attempt     integer     NOT NULL,
    crashes     smallint    NOT NULL,
    runner_id   uuid,
    claim_id    uuid,
    unique_key  bytea,
    tags        text[],
    headers     jsonb,
    options     jsonb,
    lineage     jsonb,
    error       text,
    CONSTRAINT dead_task_pkey PRIMARY KEY (queue, id)
);
CREATE INDEX dead_task_id ON {schema}.dead_task (id);
CREATE INDEX dead_task_finished ON {schema}.dead_task (finished_at, id);

-- Finished tasks, a partition a day, dropped by the day. The default partition means that an insert never fails.
CREATE TABLE {schema}.history (
    queue       text            NOT NULL,
    id          uuid            NOT NULL,
    type        text            NOT NULL,
    status      {schema}.status NOT NULL,
    priority    smallint        NOT NULL,
    payload     jsonb           NOT NULL,
    maturity_at timestamptz     NOT NULL,
    created_at  timestamptz     NOT NULL,
    started_at  timestamptz,
    finished_at timestamptz     NOT NULL,
    attempt     integer         NOT NULL,
    crashes     smallint        NOT NULL,
    runner_id   uuid,
    claim_id    uuid,
    tags        text[],
    headers     jsonb,
    lineage     jsonb,
    result      jsonb,
    reason      text,
    CONSTRAINT history_status_is_finished CHECK (status IN ('succeeded', 'cancelled', 'ignored', 'deleted'))
) PARTITION BY RANGE (finished_at);
CREATE INDEX history_id ON {schema}.history (id);
CREATE INDEX history_tags ON {schema}.history USING gin (tags) WHERE tags IS NOT NULL;
CREATE TABLE {schema}.history_default PARTITION OF {schema}.history DEFAULT;

-- One row per attempt that failed.
CREATE TABLE {schema}.attempt (
    queue       text        NOT NULL,
    task_id     uuid        NOT NULL,
    type        text        NOT NULL,
    attempt     integer     NOT NULL,
    claim_id    uuid,
    runner_id   uuid,
    started_at  timestamptz,
    finished_at timestamptz NOT NULL,
    error_type  text        NOT NULL,
    error       text        NOT NULL,
    traceback   text
) PARTITION BY RANGE (finished_at);
CREATE INDEX attempt_task ON {schema}.attempt (task_id, attempt);
CREATE TABLE {schema}.attempt_default PARTITION OF {schema}.attempt DEFAULT;

-- Lines that tasks logged about themselves.
CREATE TABLE {schema}.task_log (
    queue     text        NOT NULL,
    task_id   uuid        NOT NULL,
    attempt   integer     NOT NULL,
    logged_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    level     smallint    NOT NULL,
    message   text        NOT NULL,
    progress  real
) PARTITION BY RANGE (logged_at);
CREATE INDEX task_log_task ON {schema}.task_log (task_id, logged_at);
CREATE TABLE {schema}.task_log_default PARTITION OF {schema}.task_log DEFAULT;

-- It outlives the task, and partitions can carry no unique key across days.
CREATE TABLE {schema}.idempotency (
    queue      text        NOT NULL,
    key        bytea       NOT NULL,
    task_id    uuid        NOT NULL,
    task_queue text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT idempotency_pkey PRIMARY KEY (queue, key),
    CONSTRAINT idempotency_key_length CHECK (length(key) = 32)
);
CREATE INDEX idempotency_expires ON {schema}.idempotency (expires_at);

-- ── recurring ───────────────────────────────────────────────────────────────────────────────────────────────────

CREATE TABLE {schema}.schedule (
    id            uuid        NOT NULL DEFAULT {schema}.new_id(),
    app           text        NOT NULL,
    name          text        NOT NULL,
    source        text        NOT NULL DEFAULT 'code',
    type          text        NOT NULL,
    queue         text        NOT NULL DEFAULT 'default',
    frequency     interval,
    cron          text,
    rrule         text,
    timezone      text        NOT NULL DEFAULT 'UTC',
    missed        text        NOT NULL DEFAULT 'last',
    payload       jsonb       NOT NULL DEFAULT '{}',
    options       jsonb       NOT NULL DEFAULT '{}',
    fingerprint   text        NOT NULL,
    enabled       boolean     NOT NULL DEFAULT true,
    paused_at     timestamptz,
    start_at      timestamptz,
    end_at        timestamptz,
    max_runs      bigint,
    next_run_at   timestamptz,
    last_run_at   timestamptz,
    fired_count   bigint      NOT NULL DEFAULT 0,
    skipped_count bigint      NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT schedule_pkey PRIMARY KEY (id),
    CONSTRAINT schedule_name_key UNIQUE (app, name),
    CONSTRAINT schedule_one_recurrence CHECK (num_nonnulls(frequency, cron, rrule) = 1),
    CONSTRAINT schedule_frequency_positive CHECK (frequency > interval '0'),
    CONSTRAINT schedule_missed_policy CHECK (missed IN ('last', 'skip', 'all')),
    CONSTRAINT schedule_source CHECK (source IN ('code', 'runtime')),
    CONSTRAINT schedule_name_length CHECK (length(name) BETWEEN 1 AND 200 AND length(app) BETWEEN 1 AND 200),
    CONSTRAINT schedule_target_length CHECK (length(queue) BETWEEN 1 AND 200 AND length(type) BETWEEN 1 AND 200),
    CONSTRAINT schedule_next_range CHECK (next_run_at >= '0002-01-01 00:00+00' AND next_run_at < '9999-01-01 00:00+00')
);
CREATE INDEX schedule_due ON {schema}.schedule (next_run_at) WHERE enabled AND paused_at IS NULL;

-- What became of each due instant. The key is the promise: a slot is decided once.
CREATE TABLE {schema}.schedule_slot (
    schedule_id uuid        NOT NULL,
    slot_at     timestamptz NOT NULL,
    outcome     text        NOT NULL,
    reason      text,
    task_id     uuid,
    decided_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT schedule_slot_pkey PRIMARY KEY (schedule_id, slot_at),
    CONSTRAINT schedule_slot_outcome CHECK (outcome IN ('fired', 'skipped'))
);
CREATE INDEX schedule_slot_decided ON {schema}.schedule_slot (decided_at);

-- ── who works, and by which rules ───────────────────────────────────────────────────────────────────────────────

CREATE TABLE {schema}.runner (
    id            uuid        NOT NULL,
    name          text        NOT NULL,
    kind          text        NOT NULL DEFAULT 'runner',
    host          text        NOT NULL,
    pid           integer     NOT NULL,
    version       text        NOT NULL,
    app           text,
    queues        text[],
    types         text[],
    concurrency   integer     NOT NULL DEFAULT 0,
    running_count integer     NOT NULL DEFAULT 0,
    wanted        text        NOT NULL DEFAULT 'running',
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT runner_pkey PRIMARY KEY (id),
    CONSTRAINT runner_kind CHECK (kind IN ('runner', 'scheduler')),
    CONSTRAINT runner_wanted CHECK (wanted IN ('running', 'paused', 'stopping'))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);

CREATE TABLE {schema}.queue (
    name            text        NOT NULL,
    paused_at       timestamptz,
    max_concurrency integer,
    rate_limit      text,
    aging           interval,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT queue_pkey PRIMARY KEY (name),
    CONSTRAINT queue_name_length CHECK (length(name) BETWEEN 1 AND 200),
    CONSTRAINT queue_limits_positive CHECK (max_concurrency > 0 AND aging > interval '0')
);

CREATE TABLE {schema}.task_type (
    name           text        NOT NULL,
    title          text        NOT NULL,
    description    text        NOT NULL DEFAULT '',
    payload_schema jsonb       NOT NULL,
    options        jsonb       NOT NULL DEFAULT '{}',
    overrides      jsonb       NOT NULL DEFAULT '{}',
    disabled_at    timestamptz,
    first_seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT task_type_pkey PRIMARY KEY (name),
    CONSTRAINT task_type_name_length CHECK (length(name) BETWEEN 1 AND 200),
    CONSTRAINT task_type_overrides_object CHECK (jsonb_typeof(overrides) = 'object'),
    -- Every enqueue of the type reads it.
    CONSTRAINT task_type_priority_range CHECK (
        CASE jsonb_typeof(overrides -> 'priority')
            WHEN 'number' THEN (overrides -> 'priority')::numeric BETWEEN -32767 AND 32767
            ELSE NOT overrides ? 'priority'
        END
    )
);
-- Two names that fold together would be one task with two owners.
CREATE UNIQUE INDEX task_type_folded ON {schema}.task_type ({schema}.fold(name));

-- Slots of concurrency limits: a row exists while its holder runs.
CREATE TABLE {schema}.limit_slot (
    queue    text        NOT NULL,
    key      bytea       NOT NULL,
    slot     integer     NOT NULL,
    task_id  uuid        NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT limit_slot_pkey PRIMARY KEY (queue, key, slot)
);
CREATE INDEX limit_slot_task ON {schema}.limit_slot (task_id);

-- Grants of rate limits: so many starts, valid until, counted until the window has passed.
CREATE TABLE {schema}.rate_grant (
    queue       text        NOT NULL,
    key         bytea       NOT NULL,
    id          uuid        NOT NULL DEFAULT {schema}.new_id(),
    start_count integer     NOT NULL,
    granted_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz NOT NULL,
    counts_until timestamptz NOT NULL,
    CONSTRAINT rate_grant_pkey PRIMARY KEY (queue, key, id)
);

CREATE TABLE {schema}.named_lock (
    name        text        NOT NULL,
    holder      text,
    token       bigint      NOT NULL DEFAULT 0,
    acquired_at timestamptz,
    expires_at  timestamptz,
    CONSTRAINT named_lock_pkey PRIMARY KEY (name)
);

CREATE TABLE {schema}.audit (
    id      uuid        NOT NULL DEFAULT {schema}.new_id(),
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor   text        NOT NULL,
    action  text        NOT NULL,
    object  text        NOT NULL,
    details jsonb       NOT NULL DEFAULT '{}',
    CONSTRAINT audit_pkey PRIMARY KEY (id)
);
