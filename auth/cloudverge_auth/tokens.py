"""Tokens: signed statements of what their holder may do until a moment soon (JWT, EdDSA over Ed25519).

Pure: keys, cluster and time are passed in. Four kinds, told apart by their audience, so none passes for
another: access (auth's own HTTP), identity (a person's device on one space, to meta- and chunkservers), chunk
(a right to bytes, signed by the metaserver), server (one server to another; no right to any chunk).

A verifier accepts one algorithm and one key type, looks the key up in the issuer's ring by ``kid``, and demands
the cluster as issuer, its audience, both times, and a life no longer than that kind may have. Whatever is wrong,
the answer is the same Denied(UNAUTHORIZED): the reason would only help a forger.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

import jwt
import msgspec

from cloudverge_auth.keys import KeyRing, SigningKey
from cloudverge_protocol.errors import Code, Denied
from cloudverge_protocol.ids import (
    ROOT_INODE,
    ChunkId,
    DeviceId,
    Epoch,
    GrantId,
    Incarnation,
    InodeId,
    ServerId,
    SessionId,
    SpaceId,
    UserId,
)

ALGORITHM: Final = "EdDSA"
MAX_TOKEN_BYTES: Final = 4096
LEEWAY_S: Final = 5.0
INVALID_MESSAGE: Final = "a valid token is required"

ACCESS_LIFE_S: Final = 15 * 60
IDENTITY_LIFE_S: Final = 60
CHUNK_LIFE_S: Final = 60
SERVER_LIFE_S: Final = 300

Role = Literal["owner", "editor", "reader"]
Right = Literal["enter", "read", "append", "control"]  # enter: say HELLO, nothing else

_jws = jwt.PyJWS(algorithms=[ALGORITHM])


class Access(msgspec.Struct, frozen=True, omit_defaults=True):
    """A signed-in device, to auth itself."""

    sub: str
    device: DeviceId = msgspec.field(name="dev")
    family: int = msgspec.field(name="fam", default=0)  # the sign-in it came from, which may have ended
    exp: int = 0

    @property
    def user(self) -> UserId:
        """Whose device."""
        return UserId(int(self.sub))


class Identity(msgspec.Struct, frozen=True, omit_defaults=True):
    """A person's device on one space, with the role it had when the ticket was signed.

    With a ``grant`` it is confined to the sub-tree below ``root``; a grant's role is editor or reader. A machine's
    ticket (by a token that ``sub`` has made) has no device. Quotas of 0 are none.
    """

    sub: str
    name: str
    device: DeviceId = msgspec.field(name="dev")
    device_name: str = msgspec.field(name="dname")
    space: SpaceId
    role: Role
    membership_epoch: Epoch = msgspec.field(name="mep")
    quota_bytes: int = 0  # of the space
    quota_inodes: int = 0
    owner: UserId = UserId(0)  # of the space, whose own quota it counts for
    owner_quota_bytes: int = msgspec.field(name="oqb", default=0)
    owner_quota_inodes: int = msgspec.field(name="oqi", default=0)
    grant: GrantId = GrantId(0)  # 0: a member
    root: InodeId = ROOT_INODE
    until: int = 0  # Unix seconds at which the right itself ends; 0: never
    exp: int = 0

    @property
    def user(self) -> UserId:
        """Who."""
        return UserId(int(self.sub))

    @property
    def may_write(self) -> bool:
        """Whether the role allows changes."""
        return self.role in ("owner", "editor")

    @property
    def is_confined(self) -> bool:
        """Whether it reaches a sub-tree only."""
        return self.grant != 0 or self.root != ROOT_INODE


class ChunkTicket(msgspec.Struct, frozen=True, omit_defaults=True):
    """A right to a chunk, or with ``chunk`` 0 to read all chunks of a space.

    With ``ranges`` it is a right to read those bytes of the chunk, and no others of the blocks they lie in.
    """

    right: Right
    space: SpaceId
    chunk: ChunkId = ChunkId(0)
    epoch: Epoch = Epoch(0)
    limit: int = 0  # bytes the chunk may grow to
    servers: tuple[ServerId, ...] = msgspec.field(name="srv", default=())  # that may accept it; none: any
    session: SessionId = msgspec.field(name="ses", default=SessionId(0))
    incarnation: Incarnation = msgspec.field(name="inc", default=Incarnation(0))
    membership_epoch: Epoch = msgspec.field(name="mep", default=Epoch(0))
    ranges: tuple[tuple[int, int], ...] = msgspec.field(name="rng", default=())  # (offset, length), in order
    places: tuple[tuple[ServerId, str, int], ...] = msgspec.field(
        name="plc", default=()
    )  # of an append's chain
    user: UserId = msgspec.field(name="usr", default=UserId(0))  # who asked for it; 0: a server
    exp: int = 0


class ServerTicket(msgspec.Struct, frozen=True, omit_defaults=True):
    """One server to another; ``sub`` is "metaserver" or "chunkserver:<id>"."""

    sub: str
    exp: int = 0

    @property
    def is_metaserver(self) -> bool:
        """Whether a metaserver holds it."""
        return self.sub == "metaserver"

    @property
    def server(self) -> ServerId:
        """The chunkserver that holds it; 0 for a metaserver."""
        return ServerId(0 if self.is_metaserver else int(self.sub.removeprefix("chunkserver:")))


class _Frame(msgspec.Struct, frozen=True):
    """What every token has beside its claims."""

    iss: str
    aud: str
    iat: int
    exp: int
    nbf: int = 0


_frames = msgspec.json.Decoder(_Frame)
_AUDIENCES: Final[dict[type, tuple[str, int]]] = {
    Access: ("cv-auth", ACCESS_LIFE_S),
    Identity: ("cv-identity", IDENTITY_LIFE_S),
    ChunkTicket: ("cv-chunk", CHUNK_LIFE_S),
    ServerTicket: ("cv-server", SERVER_LIFE_S),
}
_decoders: Final[dict[type, Any]] = {kind: msgspec.json.Decoder(kind) for kind in _AUDIENCES}

Claims = TypeVar("Claims", Access, Identity, ChunkTicket, ServerTicket)


def _sign(key: SigningKey, cluster: str, claims: Claims, now_s: float, until: int = 0) -> str:
    """``claims`` signed, alive from ``now_s`` for as long as their kind lives, but not beyond ``until``.

    Their own ``exp`` is not used.
    """
    audience, life_s = _AUDIENCES[type(claims)]
    issued = int(now_s)
    end = min(issued + life_s, until) if until else issued + life_s
    payload = msgspec.to_builtins(claims)
    payload |= {"iss": cluster, "aud": audience, "iat": issued, "exp": end}
    return _jws.encode(msgspec.json.encode(payload), key.private, ALGORITHM, headers={"kid": key.kid})


def _verify(kind: type[Claims], ring: KeyRing, token: str, cluster: str, now_s: float) -> Claims:
    try:
        payload = _signed_payload(ring, token)
        _check_frame(kind, _frames.decode(payload), cluster, now_s)
        claims: Claims = _decoders[kind].decode(payload)
        _check_subject(claims)
    except (jwt.PyJWTError, msgspec.DecodeError, ValueError, TypeError, KeyError, RecursionError):
        raise Denied(Code.UNAUTHORIZED, INVALID_MESSAGE) from None
    return claims


def _signed_payload(ring: KeyRing, token: str) -> bytes:
    if len(token) > MAX_TOKEN_BYTES or not token.isascii():
        raise ValueError
    kid = _jws.get_unverified_header(token)["kid"]
    payload = _jws.decode(token, ring.keys[kid], algorithms=[ALGORITHM])
    assert isinstance(payload, bytes)
    return payload


def _check_frame(kind: type, frame: _Frame, cluster: str, now_s: float) -> None:
    audience, life_s = _AUDIENCES[kind]
    timely = frame.iat - LEEWAY_S <= now_s < frame.exp + LEEWAY_S and frame.nbf - LEEWAY_S <= now_s
    short = 0 < frame.exp - frame.iat <= life_s
    if not cluster or frame.iss != cluster or frame.aud != audience or not timely or not short:
        raise ValueError


def _check_subject(claims: Access | Identity | ChunkTicket | ServerTicket) -> None:
    """Raise ValueError unless the subject is one that our own signers write."""
    if isinstance(claims, ChunkTicket):
        return
    number = claims.sub
    if isinstance(claims, ServerTicket):
        if claims.is_metaserver:
            return
        kind, _, number = claims.sub.partition(":")
        if kind != "chunkserver":
            raise ValueError
    if not (number.isascii() and number.isdigit()) or len(number) > 19:
        raise ValueError


def sign_access(key: SigningKey, cluster: str, claims: Access, now_s: float) -> str:
    """A token for auth's own HTTP, for ACCESS_LIFE_S."""
    return _sign(key, cluster, claims, now_s)


def sign_identity(key: SigningKey, cluster: str, claims: Identity, now_s: float) -> str:
    """An identity ticket, for IDENTITY_LIFE_S or until its right ends."""
    return _sign(key, cluster, claims, now_s, claims.until)


def sign_chunk(key: SigningKey, cluster: str, claims: ChunkTicket, now_s: float, until: int = 0) -> str:
    """A chunk ticket, for CHUNK_LIFE_S or until (Unix seconds) the right behind it ends."""
    return _sign(key, cluster, claims, now_s, until)


def sign_server(key: SigningKey, cluster: str, claims: ServerTicket, now_s: float) -> str:
    """A server ticket, for SERVER_LIFE_S."""
    return _sign(key, cluster, claims, now_s)


def verify_access(ring: KeyRing, token: str, cluster: str, now_s: float) -> Access:
    """The claims of an access token; raises Denied(UNAUTHORIZED)."""
    return _verify(Access, ring, token, cluster, now_s)


def verify_identity(ring: KeyRing, token: str, cluster: str, now_s: float) -> Identity:
    """The claims of an identity ticket; raises Denied(UNAUTHORIZED)."""
    return _verify(Identity, ring, token, cluster, now_s)


def verify_chunk(ring: KeyRing, token: str, cluster: str, now_s: float) -> ChunkTicket:
    """The claims of a chunk ticket; raises Denied(UNAUTHORIZED)."""
    return _verify(ChunkTicket, ring, token, cluster, now_s)


def verify_server(ring: KeyRing, token: str, cluster: str, now_s: float) -> ServerTicket:
    """The claims of a server ticket; raises Denied(UNAUTHORIZED)."""
    return _verify(ServerTicket, ring, token, cluster, now_s)


def kid_of_token(token: str) -> str:
    """The key id a token names, unverified, to see whether newer keys must be fetched; "" if it has none."""
    try:
        kid = _jws.get_unverified_header(token)["kid"] if len(token) <= MAX_TOKEN_BYTES else ""
    except (jwt.PyJWTError, KeyError, ValueError):
        return ""
    return kid if isinstance(kid, str) else ""


class _Expiring(Protocol):
    @property
    def exp(self) -> int: ...


Held = TypeVar("Held", bound=_Expiring)


class VerifiedTokens(Generic[Held]):
    """Remembers tokens that verified, since a signature costs 170 us and a chunk's ticket comes with every request.

    ``verify(token, now_s)`` is called at a token's first sight; later only its end is checked. Call ``clear``
    when the ring changes. Bounded: ``entries`` tokens, the least recently used is forgotten first.
    """

    def __init__(self, verify: Callable[[str, float], Held], entries: int = 4096) -> None:
        self._verify, self._entries = verify, entries
        self._known: OrderedDict[str, Held] = OrderedDict()

    def verify(self, token: str, now_s: float) -> Held:
        """The token's claims; raises Denied(UNAUTHORIZED)."""
        claims = self._known.get(token)
        if claims is None:
            claims = self._known[token] = self._verify(token, now_s)
            if len(self._known) > self._entries:
                self._known.popitem(last=False)
        elif now_s >= claims.exp + LEEWAY_S:
            del self._known[token]
            raise Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)
        else:
            self._known.move_to_end(token)
        return claims

    def clear(self) -> None:
        """Forget all: the keys have changed."""
        self._known.clear()
