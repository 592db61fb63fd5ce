"""What is stored of the secrets that we make: refresh tokens, invitations, codes, machine tokens, links.

They are random and long, so a fast hash keeps them; passwords, which are not, have ``passwords``.
"""

from hashlib import sha256


def hash_of(secret: str) -> bytes:
    """What is stored of a random secret."""
    return sha256(secret.encode()).digest()
