-- The metaserver's state, all of it: schema meta.
--
-- Rules that hold for every table:
--  * Whatever changes a space (batch, session, lease, seal, reap, deletion) first locks the space's row in
--    meta.spaces; that lock is the only order there is, so hot tables carry no foreign keys (a check per row
--    would cost more than the row) and no constraint can break in the middle of a batch.
--  * Ids are 64 bit, positive, never reused. They come from sequences and from spaces.next_id, so that a
--    restore can jump every one of them by 2^32 and never give an id twice.
--  * version is the seq of the last operation that changed the row.
--  * Times that people set (atime, ...) are nanoseconds since 1970; times that servers measure are
--    timestamptz of PostgreSQL's own clock.

create sequence meta.chunk_ids as bigint start 1;
create sequence meta.server_ids as bigint start 1;
create sequence meta.session_ids as bigint start 1;
create sequence meta.incarnation_ids as bigint start 1;

-- Ed25519 keys that sign this cluster's chunk tickets and server tickets. Several metaservers share them.
create table meta.signing_keys (
    kid         text primary key,                   -- key id, as in the tickets' header
    private     bytea not null,                     -- raw private key, 32 bytes
    created_at  timestamptz not null default now(), -- the newest key signs, all are published
    retired_at  timestamptz                         -- no longer published once the last ticket has run out
);

-- The keys auth published last: a metaserver that starts while auth is away still knows its users.
create table meta.known_keys (
    kid         text primary key,                   -- key id
    public      text not null,                      -- raw public key, base64url
    seen_at     timestamptz not null default now()  -- when auth last published it
);

-- Metaserver processes; a space has one home among them at a time.
create table meta.metaservers (
    metaserver  text primary key,                   -- random name of one process
    http_url    text not null,                      -- where its HTTP listens
    frames      text not null,                      -- host:port of its frame port
    started_at  timestamptz not null default now(), -- start of the process
    last_seen   timestamptz not null default now()  -- its last sign of life
);

-- One namespace tree each. This row is the lock for everything in it.
create table meta.spaces (
    space             bigint primary key,           -- id, given by auth
    seq               bigint not null default 0,    -- of the last committed operation
    feed_from         bigint not null default 1,    -- the oldest seq still in the oplog
    next_id           bigint not null default 1024, -- next free inode or dentry id; given out in ranges
    quota_bytes       bigint not null default 0,    -- limit of used_bytes; 0: none. Learnt from tickets
    quota_inodes      bigint not null default 0,    -- limit of used_inodes; 0: none
    used_bytes        bigint not null default 0,    -- logical bytes mapped by extents of committed inodes
    used_inodes       bigint not null default 1,    -- committed inodes, root and orphans included
    replicas          smallint not null,            -- R of new chunks
    lease_epoch       bigint not null default 0,    -- raised by every takeover; a batch with a lower one is refused
    membership_epoch  bigint not null default 0,    -- highest seen in a ticket; one with a lower one is refused
    home              text,                         -- metaserver that serves this space; null: any
    home_epoch        bigint not null default 0,    -- raised when the home moves
    created_at        timestamptz not null default now()
);

create table meta.inodes (
    space     bigint not null,
    ino       bigint not null,               -- inode number; 1 is the root
    mode      integer not null,              -- file type and permissions, as st_mode
    uid       bigint not null,               -- owner
    gid       bigint not null,               -- group
    nlink     bigint not null,               -- names; of a folder 2 + sub-folders; 0: an orphan
    size      bigint not null,               -- bytes; of a symlink its target's length, of a folder 0
    atime_ns  bigint not null,               -- last access that was recorded
    mtime_ns  bigint not null,               -- last change of content
    ctime_ns  bigint not null,               -- last change of anything
    btime_ns  bigint not null,               -- birth
    rdev      bigint not null default 0,     -- device number of a device node
    parent    bigint not null default 0,     -- of a folder: where it is; otherwise 0
    entries   bigint not null default 0,     -- of a folder: names in it; otherwise 0
    target    bytea not null default '',     -- of a symlink
    version   bigint not null,               -- seq of the last change
    primary key (space, ino)
) with (fillfactor = 90);

create table meta.dentries (
    space    bigint not null,
    parent   bigint not null,  -- folder
    name     bytea not null,   -- any bytes but / and NUL, at most 255
    ino      bigint not null,  -- what it names
    kind     integer not null, -- file type bits of that inode
    dentry   bigint not null,  -- id, grows with age: order and cookie of listings
    version  bigint not null,  -- seq of the last change
    primary key (space, parent, name)
);
-- Listings go by dentry id. Not unique: ids come from untrusted mounts, and a doubled one must be able to
-- spoil no more than the listing of its own folder.
-- "parent + 0": a planner that knows nothing yet of a young table must not take this index for a look-up by
-- name, which would read whole folders; so each query can use one index only.
create index dentries_by_age on meta.dentries (space, (parent + 0), dentry);

-- Extents, packed per inode and region of 64 MiB of the file.
create table meta.extents (
    space    bigint not null,
    ino      bigint not null,
    region   bigint not null,   -- file offset / 64 MiB
    pieces   integer not null,  -- number of extents in packed
    packed   bytea not null,    -- format byte 1, then msgpack [[offset, length, chunk, chunk offset], ...]
    version  bigint not null,
    primary key (space, ino, region)
) with (fillfactor = 80);

create table meta.xattrs (
    space    bigint not null,
    ino      bigint not null,
    name     bytea not null,   -- at most 255 bytes
    value    bytea not null,   -- at most 64 KiB
    version  bigint not null,
    primary key (space, ino, name)
);

-- Inodes without a name that are still open in a mount.
create table meta.orphans (
    space        bigint not null,
    ino          bigint not null,
    session      bigint not null,  -- who has it open; only this one may reap it
    incarnation  bigint not null,  -- reaped by the metaserver when this one is closed
    version      bigint not null,  -- seq at which it lost its last name
    primary key (space, ino)
);
create index orphans_by_incarnation on meta.orphans (incarnation);

-- Committed operations of each space, for other mounts, for mounts that come back, and for the curious.
create table meta.oplog (
    space        bigint not null,
    seq          bigint not null,  -- 1, 2, ... without a gap
    session      bigint not null,  -- 0: the metaserver itself
    incarnation  bigint not null,  -- as the entry was born; 0 with session 0
    number       bigint not null,  -- as the entry was born; 0 with session 0
    op           bytea not null,   -- msgpack of the operation
    at           timestamptz not null default now(),
    primary key (space, seq)
);

-- Extents that lost their reference while another session had not caught up; kept for the offline window.
create table meta.trash (
    space       bigint not null,
    seq         bigint not null,       -- operation that freed them
    ino         bigint not null,       -- whose they were
    region      bigint not null,
    packed      bytea not null,        -- as in meta.extents
    freed_at    timestamptz not null default now(),
    expires_at  timestamptz not null,  -- afterwards their bytes count as dead
    primary key (space, seq, ino, region)
);
create index trash_by_expiry on meta.trash (expires_at);

-- Chunkservers.
create table meta.servers (
    server          bigint primary key default nextval('meta.server_ids'),
    uuid            text not null unique,             -- made by the server, kept in its data folder
    host            text not null,                    -- of the frame port, as clients reach it
    frame_port      integer not null,
    http_url        text not null,
    rack            text not null default '',         -- failure domain above the host
    receipt_key     bytea not null,                   -- shared key of its receipts; never leaves this table
    capacity_bytes  bigint not null default 0,
    free_bytes      bigint not null default 0,        -- as it reported last, promises to OPEN chunks taken off
    open_bytes      bigint not null default 0,        -- what its OPEN chunks may still grow by
    chunks          bigint not null default 0,        -- replicas it holds
    "full"          boolean not null default false,   -- it says it can take no more
    draining        boolean not null default false,   -- an operator wants it empty
    registered_at   timestamptz not null default now(),
    last_seen       timestamptz not null default now() -- last heartbeat
);

-- states of a chunk: 1 OPEN, 2 SEALED, 3 DAMAGED (no reachable replica reaches the length it must have:
-- it waits), 4 DELETED (nothing refers to it; its replicas are being removed)
create table meta.chunks (
    chunk            bigint primary key default nextval('meta.chunk_ids'),
    space            bigint not null,
    state            smallint not null default 1,
    epoch            bigint not null default 1,     -- of the append right; raised by a seal
    session          bigint not null,               -- whose writes may name it
    incarnation      bigint not null,               -- whose appends it takes while OPEN
    limit_bytes      bigint not null,               -- it never grows past this
    durable_length   bigint not null default 0,     -- D: what all replicas of its set have receipted
    committed_end    bigint not null default 0,     -- highest end of any extent ever committed
    sealed_length    bigint,                        -- final length; null while OPEN
    live_bytes       bigint not null default 0,     -- logical bytes that extents map to it
    pinned_by        bigint,                        -- incarnation whose journal may still name it; null: none
    wanted_replicas  smallint not null,             -- R
    created_at       timestamptz not null default now(),
    sealed_at        timestamptz,
    sealing          boolean not null default false, -- a seal was begun: no append right is given any more
    tried_at         timestamptz,                   -- last attempt to seal, repair or delete it
    idle_since       timestamptz not null default now() -- last change of live_bytes or pin: the grace counts from here
);
create index chunks_unsealed on meta.chunks (incarnation) where state in (1, 3);
create index chunks_pinned on meta.chunks (pinned_by) where pinned_by is not null;
create index chunks_held on meta.chunks (space) where pinned_by is not null;
create index chunks_dead on meta.chunks (idle_since)
    where state in (2, 3) and live_bytes = 0 and pinned_by is null;
create index chunks_deleted on meta.chunks (idle_since) where state = 4;

-- states of a replica: 1 OPEN (member of an OPEN chunk), 2 GOOD (verified over the whole seal, and sealed),
-- 3 UNTOLD (verified over the whole seal, has not confirmed it yet), 4 BAD (member with bad blocks),
-- 5 STALE (was left out of the set by a seal), 6 DOOMED (to be removed from its server)
create table meta.replicas (
    chunk     bigint not null,
    server    bigint not null,
    state     smallint not null default 1,
    position  smallint not null,          -- in the append chain
    receipted bigint not null default 0,  -- highest length it has receipted in the chunk's epoch
    changed_at timestamptz not null default now(),
    primary key (chunk, server)
);
create index replicas_by_server on meta.replicas ((server + 0), state); -- "+ 0": as with dentries_by_age
create index replicas_unwell on meta.replicas (state, changed_at) where state in (3, 4, 5, 6);

-- One mount of one space by one device: a cache folder.
create table meta.sessions (
    session      bigint primary key default nextval('meta.session_ids'),
    space        bigint not null,
    user_id      bigint not null,
    cache_id     bytea not null,           -- 16 random bytes kept in the cache folder
    device       bigint not null,          -- as in the ticket that opened it last
    device_name  text not null,            -- shown to others who wait for it
    mountpoint   text not null default '', -- for people
    opened_at    timestamptz not null default now(),
    closed_at    timestamptz,              -- clean end; null: open, or died
    unique (space, cache_id, user_id)
);

-- One start of a session's mount.
create table meta.incarnations (
    incarnation  bigint primary key default nextval('meta.incarnation_ids'),
    session      bigint not null,
    space        bigint not null,
    high_water   bigint not null default 0,  -- highest entry number applied
    opened_at    timestamptz not null default now(),
    fenced_at    timestamptz,  -- replaced by a later incarnation or another session, or closed
    released_at  timestamptz,  -- its pins and orphans are gone (closed, or 7 days after it was fenced)
    closed_at    timestamptz   -- the journal has been shipped: no entry of it can come any more
);
create index incarnations_by_session on meta.incarnations (session);
create index incarnations_unreleased on meta.incarnations (fenced_at) where released_at is null;

-- Ids given to incarnations; a create may use those of its own session only.
create table meta.id_ranges (
    incarnation  bigint not null,
    first        bigint not null,
    count        bigint not null,
    session      bigint not null,
    primary key (incarnation, first)
);
create index id_ranges_by_session on meta.id_ranges (session);

-- Who may change a space, or a sub-tree of it, without asking.
create table meta.leases (
    space        bigint not null,
    root         bigint not null default 1,  -- inode of the sub-tree; 1: the whole space
    session      bigint not null,
    incarnation  bigint not null,
    epoch        bigint not null,            -- spaces.lease_epoch when it was granted
    mode         smallint not null default 2, -- 1 SHARED, 2 EXCLUSIVE
    granted_at   timestamptz not null,
    expires_at   timestamptz not null,       -- on PostgreSQL's clock
    primary key (space, root)
);
