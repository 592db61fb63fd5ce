-- What is promised of an owner's quota is kept with the lease, so that no byte is promised twice; how much that may be
-- is decided in cloudverge_metaserver.quotas, which the functions of 0003 said once more.
alter table meta.leases add column promised_bytes bigint not null default 0;   -- the level spaces.used_bytes may
alter table meta.leases add column promised_inodes bigint not null default 0;  --   reach; 0: no promise
drop function meta.promised_bytes(meta.spaces);
drop function meta.promised_inodes(meta.spaces);
drop function meta.allowed_bytes(meta.spaces);
drop function meta.allowed_inodes(meta.spaces);
