-- Administrators, quotas of users, team spaces, grants, invitations, enrolment of servers, and the log of rights.
--
-- A space's membership epoch is raised in the transaction that takes any right to it away; epoch_raised_at is then
-- set from clock_timestamp(), since now() is the transaction's start and could be long ago at its commit.

alter table users add column admin boolean not null default false;         -- may use /v1/admin
alter table users add column quota_bytes bigint not null default 0         -- over all spaces he owns; 0: none
    check (quota_bytes >= 0);
alter table users add column quota_inodes bigint not null default 0        -- the same in inodes; 0: none
    check (quota_inodes >= 0);

alter table spaces add column kind text not null default 'personal'        -- personal: made with the account, its
    check (kind in ('personal', 'team'));                                  -- one owner stays; team: several owners
alter table spaces add column epoch_raised_at timestamptz;                 -- null: never raised
alter table spaces add column deleted_at timestamptz;                      -- set: nobody's; its row stays, so that
                                                                           -- servers learn of it
alter table spaces add column purged_at timestamptz;                       -- the metaserver has removed its content
create index spaces_by_raise on spaces (epoch_raised_at);
create index spaces_to_purge on spaces (id) where deleted_at is not null and purged_at is null;
-- A deleted space's name is free again. A team that was handed over may share a name with another of its owner's.
alter table spaces drop constraint spaces_owner_id_name_key;
create index spaces_by_owner on spaces (owner_id, name);

-- Rights to a part of a space, of one sequence of ids. They work while working_grants (below) says so.
create table grants (
    id bigint generated always as identity primary key,
    kind text not null check (kind in ('user', 'token', 'link')),
    space_id bigint not null references spaces on delete cascade,
    given_by bigint not null references users,    -- an owner or editor of the space; loses that: all he gave ends
    to_user bigint references users,              -- kind user: whom
    label text not null default '',               -- kind token: what the machine is called
    secret_hash bytea unique,                     -- kinds token and link: SHA-256 of 32 random bytes
    root bigint not null check (root > 0),        -- inode: the folder (link: the file) it reaches; renames keep it
    path text not null,                           -- where that was when it was given; for people to read
    rw boolean not null default false,            -- false: to read only
    until timestamptz,                            -- null: no end
    password_hash text,                           -- kind link: argon2id; null: needs none
    downloads bigint not null default 0,          -- kind link: how many have begun
    max_downloads bigint check (max_downloads > 0),    -- kind link: after these it opens no more; null: no limit
    created_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,                         -- set (clock_timestamp()): for ever
    end_reason text,                              -- revoked, membership, space
    check (kind = 'user' or to_user is null),
    check (kind <> 'user' or to_user is not null),
    check ((kind = 'user') = (secret_hash is null)),
    check (kind <> 'link' or not rw),
    check (downloads <= max_downloads)
);
create index grants_by_space on grants (space_id) where ended_at is null;
create index grants_by_giver on grants (given_by) where ended_at is null;
create index grants_by_grantee on grants (to_user) where ended_at is null;
create index grants_ended on grants (ended_at) where kind = 'link';
create index grants_until on grants (until) where kind = 'link' and ended_at is null;

-- The grants that give anything now: the one definition, used by every ticket and every opening of a link.
create view working_grants as
select g.id, g.kind, g.space_id, g.given_by, g.to_user, g.label, g.secret_hash, g.root, g.path, g.rw, g.until,
    g.password_hash, g.downloads, g.max_downloads, g.created_at
from grants g
join users giver on giver.id = g.given_by and giver.disabled_at is null
join members m on m.space_id = g.space_id and m.user_id = g.given_by and m.role in ('owner', 'editor')
join spaces s on s.id = g.space_id and s.deleted_at is null
where g.ended_at is null and (g.until is null or g.until > clock_timestamp());

-- One-time secrets with which strangers become users, or users administrators.
create table invites (
    id bigint generated always as identity primary key,
    hash bytea not null unique,                   -- SHA-256 of 32 random bytes
    admin boolean not null default false,         -- who uses it becomes an administrator
    made_by bigint references users,              -- null: the operator's file
    created_at timestamptz not null default now(),
    until timestamptz,                            -- null: no end
    used_at timestamptz,                          -- set at its one use
    used_by bigint references users,
    revoked_at timestamptz
);

-- Those that are good for something: what is used or withdrawn leaves it, so an update by two at once succeeds once.
create view open_invites as
select id, hash, admin, used_at, used_by, revoked_at from invites
where used_at is null and revoked_at is null and (until is null or until > now());

-- What an administrator has decided, over what the server was started with. At most one row.
create table policy (
    one boolean primary key default true check (one),
    sign_up text not null check (sign_up in ('open', 'invite', 'closed'))    -- read at every sign-up
);

-- One-time codes with which a new storage host gets its certificate and the join token.
create table enrolments (
    hash bytea primary key,                       -- SHA-256 of the code
    until timestamptz not null,
    used_at timestamptz,                          -- set at its one use
    used_for text                                 -- the host that was named then
);

-- What was done to rights: one chain per space; space 0 is the accounts'. Written in the transaction of the change.
create table audit (
    space_id bigint not null,                     -- no reference: 0 is none, and the log outlives its space
    seq bigint not null,                          -- 1, 2, ... without a gap
    at timestamptz not null,
    user_id bigint not null,                      -- who did it; 0: the operator of the server
    user_name text not null,                      -- as it was then
    device_id bigint not null,
    device_name text not null,
    action text not null,                         -- such as member.add
    detail text not null,                         -- what, to whom; for people to read
    hash bytea not null,                          -- audit_hash of the row before and this one
    primary key (space_id, seq)
);

-- The end of each chain: locked by who appends, so a chain has no forks; a cut-off end is noticed.
create table audit_heads (
    space_id bigint primary key,
    seq bigint not null,
    at timestamptz not null,                      -- of the last row
    hash bytea not null
);

create function audit_hash(
    before bytea, space_id bigint, seq bigint, at timestamptz, user_id bigint, user_name text,
    device_id bigint, device_name text, action text, detail text
) returns bytea language sql immutable as $$
    select sha256(before || convert_to(
        jsonb_build_array(
            space_id, seq, (extract(epoch from at) * 1000000)::bigint, user_id, user_name,
            device_id, device_name, action, detail
        )::text, 'UTF8'))
$$;
