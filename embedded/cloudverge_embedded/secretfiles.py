"""Generated secrets of one cluster, each made once: join token, administrator's invitation, PostgreSQL's passwords.

The DSNs are derived from the passwords and the port, and written anew with each ``cv up``. Nothing here is
ever an argument of a process or a line of a log.
"""

import os
import secrets

import msgspec

from cloudverge_embedded.atomicfile import read_optional, write_atomically, write_json
from cloudverge_embedded.folder import Folder

ROLES = {"owner": "cloudverge", "auth": "cloudverge_auth", "meta": "cloudverge_meta"}
DATABASE = "cloudverge"
EXTERNAL_DSN_VARIABLE = "CLOUDVERGE_DSN"


def external_dsn() -> str | None:
    """The database somebody else runs, if one is given."""
    return os.environ.get(EXTERNAL_DSN_VARIABLE) or None


def new_cluster_id() -> str:
    """16 random bytes as hex."""
    return secrets.token_hex(16)


def make_secrets(folder: Folder) -> None:
    """Create what is missing; existing secrets stay."""
    if not folder.join_token.exists():
        write_atomically(folder.join_token, secrets.token_hex(32).encode())
    if not folder.admin_invitation.exists():
        write_atomically(folder.admin_invitation, secrets.token_hex(32).encode())
    if not folder.passwords.exists():
        write_json(folder.passwords, {role: secrets.token_hex(24) for role in ROLES})


def load_passwords(folder: Folder) -> dict[str, str]:
    """The password of each role."""
    return msgspec.json.decode(folder.passwords.read_bytes(), type=dict[str, str])


def write_dsns(folder: Folder, port: int) -> None:
    """The DSN files of a PostgreSQL of our own on ``port``."""
    passwords = load_passwords(folder)
    for role, name in ROLES.items():
        write_dsn(folder, role, f"postgresql://{name}:{passwords[role]}@127.0.0.1:{port}/{DATABASE}")


def write_dsn(folder: Folder, role: str, dsn: str) -> None:
    """Write one DSN file, if it says something new."""
    path = folder.dsn_file(role)
    if read_optional(path) != dsn.encode():
        write_atomically(path, dsn.encode())


def read_dsn(folder: Folder, role: str) -> str:
    """One DSN."""
    return folder.dsn_file(role).read_text().strip()
