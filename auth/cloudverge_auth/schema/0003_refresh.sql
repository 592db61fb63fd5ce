-- A refresh whose answer was lost may be asked for again: by whoever names the very token that it was traded for.

alter table refresh_tokens
    add column prior bytea;                       -- hash of the token that was traded for this one; null: of a sign-in
