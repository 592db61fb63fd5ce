-- Accounts, devices, sign-ins, spaces and keys of auth. Ids are never reused; times are this server's clock.

create table users (
    id bigint generated always as identity primary key,
    name text not null unique,                    -- [a-z0-9._-], 1 to 64; also the name of the first space
    password_hash text not null,                  -- argon2id in PHC form, its parameters included
    created_at timestamptz not null default now(),
    disabled_at timestamptz                       -- set: may not sign in, all tokens are refused
);

create table devices (
    id bigint generated always as identity primary key,
    user_id bigint not null references users on delete cascade,
    name text not null,                           -- as the device calls itself; shown to its owner's other devices
    created_at timestamptz not null default now(),
    seen_at timestamptz not null default now(),   -- last sign-in or refresh
    revoked_at timestamptz                        -- set: for ever; signing in again makes another device
);
-- A user's living devices have distinct names: signing in again from one finds it.
create unique index devices_alive on devices (user_id, name) where revoked_at is null;

-- One sign-in and the chain of refresh tokens that grew from it.
create table families (
    id bigint generated always as identity primary key,
    device_id bigint not null references devices on delete cascade,
    created_at timestamptz not null default now(),
    ended_at timestamptz,                         -- set: its refresh and access tokens are refused
    end_reason text                               -- logout, reuse, revoked, superseded
);
create index families_of_device on families (device_id) where ended_at is null;

create table refresh_tokens (
    hash bytea primary key,                       -- SHA-256 of the token: 32 random bytes need no slow hash
    family_id bigint not null references families on delete cascade,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    used_at timestamptz                           -- set at its one use; kept, so that a second use is noticed
);
create index refresh_tokens_by_family on refresh_tokens (family_id);
create index refresh_tokens_by_expiry on refresh_tokens (expires_at);

create table spaces (
    id bigint generated always as identity primary key,
    owner_id bigint not null references users,    -- counts for the quota's price, and may not leave
    name text not null,
    quota_bytes bigint not null default 0 check (quota_bytes >= 0),    -- 0: none
    quota_inodes bigint not null default 0 check (quota_inodes >= 0),  -- 0: none
    membership_epoch bigint not null default 1,   -- raised in the transaction that takes a role or a device away:
                                                  -- tickets with a lower one are refused by who has seen a higher
    created_at timestamptz not null default now(),
    unique (owner_id, name)
);

create table members (
    space_id bigint not null references spaces on delete cascade,
    user_id bigint not null references users on delete cascade,
    role text not null check (role in ('owner', 'editor', 'reader')),
    since timestamptz not null default now(),
    primary key (space_id, user_id)
);
create index members_by_user on members (user_id);

-- Rotation: a new key is published at once, signs from signs_from on (when every verifier has fetched it),
-- and after retired_at is published for as long as a token signed by it may live.
create table signing_keys (
    kid text primary key,                         -- hash of the public key, in every token's header
    private bytea not null,                       -- raw Ed25519 private key; only auth's role may read this schema
    created_at timestamptz not null default now(),
    signs_from timestamptz not null default now(),
    retired_at timestamptz                        -- set: signs nothing new
);

-- Rate limit of sign-in attempts: the time at which a subject would have no debt left (GCRA).
create table login_rate (
    subject text primary key,                     -- hash of user, address or both: never a password
    free_at timestamptz not null
);
create index login_rate_by_time on login_rate (free_at);
