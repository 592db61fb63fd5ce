"""The cluster's key for chunk and server tickets: made by whichever metaserver starts first."""

from cloudverge_auth.keys import KeyRing, SigningKey
from cloudverge_metaserver.database import Database


async def ensure_signing_key(database: Database) -> tuple[SigningKey, KeyRing]:
    """The newest key, which signs, and the ring of all that are published."""
    async with database.transaction() as connection:
        await connection.execute("lock table meta.signing_keys in share row exclusive mode")
        rows = await connection.fetch(
            "select private from meta.signing_keys where retired_at is null order by created_at desc, kid"
        )
        if rows:
            keys = [SigningKey.from_bytes(row["private"]) for row in rows]
        else:
            keys = [SigningKey.generate()]
            await connection.execute(
                "insert into meta.signing_keys (kid, private) values ($1, $2)",
                keys[0].kid,
                keys[0].to_bytes(),
            )
    ring = {kid: key for signing in keys for kid, key in signing.ring().keys.items()}
    return keys[0], KeyRing(ring)
