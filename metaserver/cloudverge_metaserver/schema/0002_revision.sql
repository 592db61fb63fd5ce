-- Whoever locks a space's row also raises this number: what a metaserver remembers of the space from its last
-- transaction is still true as long as the number is the same (see cloudverge_metaserver.kept).
alter table meta.spaces add column revision bigint not null default 0;
