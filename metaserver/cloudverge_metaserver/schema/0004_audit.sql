-- Who did what to which file from which device. Made from the oplog behind the commits, a few seconds later, and kept
-- when the oplog is pruned. Each row's hash covers the row and the hash before it, so one that is changed, taken out or
-- slipped in breaks the chain from there on. Rows are never updated; the oldest may be dropped (--audit-days).
create table meta.audit (
    space        bigint not null,
    n            bigint not null,      -- 1, 2, ... without a gap
    seq_first    bigint not null,      -- of the operations that were put together here; those of other rows may
    seq_last     bigint not null,      --   lie between them
    at           timestamptz not null, -- commit of the first
    user_id      bigint not null,      -- 0: the metaserver itself
    user_name    text not null,        -- as of then
    device       bigint not null,      -- 0: a machine's token, or the metaserver itself
    device_name  text not null,        -- as of then
    session      bigint not null,
    action       text not null,        -- created, wrote, changed, renamed, linked, removed, replaced
    ino          bigint not null,      -- to what
    parent       bigint,               -- folder and name that were made or taken away; of a rename, the old ones;
    name         bytea,                --   null where no name was touched
    new_parent   bigint,               -- of a rename: the new ones
    new_name     bytea,
    detail       text not null,        -- for people
    prev         bytea not null,       -- hash of the row before; of the first row empty
    hash         bytea not null,       -- BLAKE2b-256, see cloudverge_metaserver.auditrows
    primary key (space, n)
);
create index audit_by_ino on meta.audit (space, ino, n);
create index audit_names on meta.audit (space, ino, n) where name is not null;

-- How far each space's oplog has been told. This row is the lock for its part of meta.audit.
create table meta.audited (
    space       bigint primary key,
    seq         bigint not null default 0,   -- the last operation that is in meta.audit
    n           bigint not null default 0,   -- its last row
    hash        bytea not null default '',   -- and that row's hash
    first_n     bigint not null default 1,   -- the oldest row that is kept
    first_prev  bytea not null default ''    -- and what its prev must be
);
