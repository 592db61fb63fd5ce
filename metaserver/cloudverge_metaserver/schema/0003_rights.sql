-- Sub-trees, owners' quotas, and who was behind a session.

-- A session belongs to one right: what a grant reaches must not be widened by its user's own membership.
alter table meta.sessions add column grant_id bigint not null default 0;  -- of auth; 0: a member's
alter table meta.sessions add column user_name text not null default '';  -- as in the ticket that opened it last
alter table meta.sessions drop constraint sessions_space_cache_id_user_id_key;
alter table meta.sessions add constraint sessions_of_one_right unique (space, cache_id, user_id, grant_id);

-- The owner's own quota counts all spaces he owns; learnt from tickets like that of the space. 0: none.
alter table meta.spaces add column owner bigint not null default 0;
alter table meta.spaces add column owner_quota_bytes bigint not null default 0;
alter table meta.spaces add column owner_quota_inodes bigint not null default 0;
create index spaces_by_owner on meta.spaces (owner);

-- How much a space may hold: the lower of its own quota and what its owner's other spaces leave of his. 0: no limit.
create function meta.allowed_bytes(s meta.spaces) returns bigint language sql stable as $$
    select case when s.owner_quota_bytes = 0 then s.quota_bytes else least(
        coalesce(nullif(s.quota_bytes, 0), s.owner_quota_bytes),
        greatest(1, s.owner_quota_bytes - (
            select coalesce(sum(o.used_bytes), 0)::bigint from meta.spaces o where o.owner = s.owner and o.space <> s.space
        ))
    ) end
$$;
create function meta.allowed_inodes(s meta.spaces) returns bigint language sql stable as $$
    select case when s.owner_quota_inodes = 0 then s.quota_inodes else least(
        coalesce(nullif(s.quota_inodes, 0), s.owner_quota_inodes),
        greatest(1, s.owner_quota_inodes - (
            select coalesce(sum(o.used_inodes), 0)::bigint from meta.spaces o where o.owner = s.owner and o.space <> s.space
        ))
    ) end
$$;

-- How far a space's active mount may go before it asks again. It answers its writers at once and commits later, so what
-- it may accept must be its own: while other spaces of the owner are active too, what is left of his quota is shared
-- out, little at a time. Together never more than allowed; alone all of it.
create function meta.promised_bytes(s meta.spaces) returns bigint language sql stable as $$
    select case when s.owner_quota_bytes = 0 or o.others = 0 then meta.allowed_bytes(s) else least(
        meta.allowed_bytes(s),
        s.used_bytes + least(268435456, greatest(0, meta.allowed_bytes(s) - s.used_bytes) / (o.others + 1))
    ) end from (
        select count(*) as others from meta.spaces o join meta.leases l on l.space = o.space and l.root = 1
        where o.owner = s.owner and o.space <> s.space and l.expires_at > clock_timestamp()
    ) o
$$;
create function meta.promised_inodes(s meta.spaces) returns bigint language sql stable as $$
    select case when s.owner_quota_inodes = 0 or o.others = 0 then meta.allowed_inodes(s) else least(
        meta.allowed_inodes(s),
        s.used_inodes + least(4096, greatest(0, meta.allowed_inodes(s) - s.used_inodes) / (o.others + 1))
    ) end from (
        select count(*) as others from meta.spaces o join meta.leases l on l.space = o.space and l.root = 1
        where o.owner = s.owner and o.space <> s.space and l.expires_at > clock_timestamp()
    ) o
$$;

-- From an inode to its names: whether a file lies below a folder is asked for every operation of a session that
-- is confined to a sub-tree. "+ 0": as with dentries_by_age.
create index dentries_by_inode on meta.dentries (space, (ino + 0));
