"""Tokens: what verifies, and everything that must not."""

import hmac
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_auth.keys import KeyRing, SigningKey, to_b64
from cloudverge_auth.tokens import (
    ACCESS_LIFE_S,
    CHUNK_LIFE_S,
    IDENTITY_LIFE_S,
    LEEWAY_S,
    MAX_TOKEN_BYTES,
    SERVER_LIFE_S,
    Access,
    ChunkTicket,
    Identity,
    ServerTicket,
    VerifiedTokens,
    kid_of_token,
    sign_access,
    sign_chunk,
    sign_identity,
    sign_server,
    verify_access,
    verify_chunk,
    verify_identity,
    verify_server,
)
from cloudverge_protocol.errors import Code, Denied

NOW = 1_800_000_000.25
CLUSTER = "c" * 32
KEY = SigningKey.generate()
RING = KEY.ring()
IDENTITY = Identity("7", "ann", 3, "laptop", 9, "editor", 2, 1000, 50)

KINDS = {
    "access": (sign_access, verify_access, Access("7", 3, 4), ACCESS_LIFE_S),
    "identity": (sign_identity, verify_identity, IDENTITY, IDENTITY_LIFE_S),
    "chunk": (sign_chunk, verify_chunk, ChunkTicket("append", 9, 11, 2, 4096, (1, 2), 5, 6), CHUNK_LIFE_S),
    "server": (sign_server, verify_server, ServerTicket("chunkserver:4"), SERVER_LIFE_S),
}


def b64_json(value):
    return to_b64(json.dumps(value).encode())


def payload(**changes):
    good = {
        "iss": CLUSTER, "aud": "cv-identity", "iat": int(NOW), "exp": int(NOW) + 60, "sub": "7", "name": "ann",
        "dev": 3, "dname": "laptop", "space": 9, "role": "editor", "mep": 2,
    }  # fmt: skip
    return {name: value for name, value in (good | changes).items() if value is not None}


def forge(claims, key=KEY.private, algorithm="EdDSA", **header):
    headers = {"kid": KEY.kid} | header
    return jwt.PyJWS().encode(json.dumps(claims).encode(), key, algorithm, headers=headers)


def refused(token, verify=verify_identity, now=NOW, cluster=CLUSTER, ring=RING):
    with pytest.raises(Denied) as caught:
        verify(ring, token, cluster, now)
    assert caught.value.code == Code.UNAUTHORIZED
    assert caught.value.message == "a valid token is required"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_signed_is_what_is_read(kind):
    sign, verify, claims, life_s = KINDS[kind]
    read = verify(RING, sign(KEY, CLUSTER, claims, NOW), CLUSTER, NOW)
    assert read.exp == int(NOW) + life_s
    assert type(read)(**{**{f: getattr(read, f) for f in read.__struct_fields__}, "exp": 0}) == claims


def test_claims_have_the_names_that_are_documented():
    token = sign_identity(KEY, CLUSTER, IDENTITY, NOW)
    assert jwt.decode(token, options={"verify_signature": False}) == payload(
        quota_bytes=1000, quota_inodes=50
    )
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "kid": KEY.kid, "typ": "JWT"}


def test_the_forging_helper_of_these_tests_forges_well():
    assert verify_identity(RING, forge(payload()), CLUSTER, NOW).name == "ann"


@pytest.mark.parametrize("signed", KINDS)
@pytest.mark.parametrize("read", KINDS)
def test_no_kind_passes_for_another(signed, read):
    token = KINDS[signed][0](KEY, CLUSTER, KINDS[signed][2], NOW)
    if signed != read:
        refused(token, KINDS[read][1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_lives_from_its_making_to_its_end_and_a_little(kind):
    sign, verify, claims, life_s = KINDS[kind]
    token, made = sign(KEY, CLUSTER, claims, NOW), int(NOW)
    verify(RING, token, CLUSTER, made + life_s + LEEWAY_S - 0.1)
    verify(RING, token, CLUSTER, made - LEEWAY_S)
    refused(token, verify, made + life_s + LEEWAY_S)
    refused(token, verify, made - LEEWAY_S - 0.1)


def test_alg_none_is_refused_in_every_spelling():
    body = b64_json(payload())
    for alg in ("none", "None", "NONE", "nOnE", "", None):
        head = b64_json({"alg": alg, "typ": "JWT", "kid": KEY.kid})
        for signature in ("", "x", to_b64(bytes(64))):
            refused(f"{head}.{body}.{signature}")
    refused(f"{b64_json({'kid': KEY.kid})}.{body}.")


def test_the_public_key_as_a_shared_secret_is_refused():

    head, body = b64_json({"alg": "HS256", "typ": "JWT", "kid": KEY.kid}), b64_json(payload())
    for secret in (KEY.public_bytes, to_b64(KEY.public_bytes).encode(), b""):
        mac = hmac.digest(secret, f"{head}.{body}".encode(), "sha256")
        refused(f"{head}.{body}.{to_b64(mac)}")


def test_other_key_types_and_algorithms_are_refused():
    key = generate_private_key(SECP256R1())
    refused(forge(payload(), key, "ES256"))
    for alg in ("ES256", "RS256", "Ed25519", "HS512", "eddsa"):
        head, body = b64_json({"alg": alg, "kid": KEY.kid}), b64_json(payload())
        refused(f"{head}.{body}.{to_b64(KEY.private.sign(f'{head}.{body}'.encode()))}")


def test_keys_named_in_the_token_itself_are_not_used():
    thief = SigningKey.generate()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": to_b64(thief.public_bytes)}
    refused(forge(payload(), thief.private, jwk=jwk))
    refused(forge(payload(), thief.private, kid=thief.kid, jku="http://127.0.0.1:1/keys"))


@pytest.mark.parametrize("kid", [None, "", "unknown", 5, ["a"], {"a": 1}, "../../etc/passwd", "x" * 1000])
def test_a_key_id_that_is_not_in_the_ring_is_refused(kid):
    head = b64_json({"alg": "EdDSA", "kid": kid})
    body = b64_json(payload())
    refused(f"{head}.{body}.{to_b64(KEY.private.sign(f'{head}.{body}'.encode()))}")


def test_a_key_of_the_ring_under_another_keys_name_is_refused():
    other = SigningKey.generate()
    ring = KeyRing({**RING.keys, **other.ring().keys})
    refused(forge(payload(), other.private, kid=KEY.kid), ring=ring)


def test_every_altered_character_is_refused():
    token = sign_identity(KEY, CLUSTER, IDENTITY, NOW)
    for place, old in enumerate(token):
        new = "A" if old != "A" else "Q"  # never the same bits, even in a last character with unused ones
        refused(token[:place] + new + token[place + 1 :])


def test_a_signature_moved_to_other_claims_is_refused():
    token = sign_identity(KEY, CLUSTER, IDENTITY, NOW)
    head, _, signature = token.split(".")
    refused(f"{head}.{b64_json(payload(role='owner'))}.{signature}")


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "other"}, {"iss": None}, {"iss": [CLUSTER]}, {"iss": ""},
        {"aud": "cv-auth"}, {"aud": None}, {"aud": ["cv-identity"]}, {"aud": ""},
        {"exp": None}, {"exp": "9999999999"}, {"exp": int(NOW) - 6}, {"exp": 1e400}, {"exp": True},
        {"exp": int(NOW) + 61}, {"exp": int(NOW)},
        {"iat": None}, {"iat": int(NOW) + 6, "exp": int(NOW) + 60}, {"iat": int(NOW) - 3600},
        {"nbf": int(NOW) + 6}, {"nbf": "x"},
        {"sub": None}, {"sub": 7}, {"sub": ""}, {"sub": "-7"}, {"sub": "7 "}, {"sub": "x"}, {"sub": "9" * 30},
        {"sub": "\u0667"}, {"role": "root"}, {"role": None}, {"space": "9"}, {"space": None}, {"dev": None},
        {"mep": 1.5}, {"name": None},
    ],
    ids=str,
)  # fmt: skip
def test_claims_that_we_would_not_have_signed_are_refused(changes):
    refused(forge(payload(**changes)))


def test_claims_that_are_no_object_are_refused():
    for claims in ([], "x", 5, None, [payload()]):
        refused(forge(claims))


def test_claims_unknown_to_this_version_are_passed_over():
    assert verify_identity(RING, forge(payload(scope="later")), CLUSTER, NOW).space == 9


def test_tokens_of_another_cluster_are_refused():
    refused(sign_identity(KEY, "d" * 32, IDENTITY, NOW))
    refused(sign_identity(KEY, "", IDENTITY, NOW), cluster="")


def test_an_oversize_token_is_refused_unread():
    refused(forge(payload(name="n" * MAX_TOKEN_BYTES)))
    refused("x" * 10_000_000)


@pytest.mark.parametrize(
    "token", ["", ".", "..", "...", "a.b.c", "a.b.c.d", "\0", "é.é.é", "=.=.=", " ", "e30.e30."]
)
def test_what_is_no_token_is_refused(token):
    refused(token)
    assert kid_of_token(token) == ""


@given(st.text(max_size=200))
def test_no_text_raises_anything_else(text):
    refused(text)
    assert isinstance(kid_of_token(text), str)


@given(st.binary(max_size=300))
def test_no_signed_bytes_raise_anything_else(blob):
    head = b64_json({"alg": "EdDSA", "kid": KEY.kid})
    body = to_b64(blob)
    refused(f"{head}.{body}.{to_b64(KEY.private.sign(f'{head}.{body}'.encode()))}")


@pytest.mark.parametrize(
    "subject", ["", "chunkserver", "chunkserver:", "chunkserver:x", "metaserver:1", "other"]
)
def test_server_tickets_name_a_server(subject):
    refused(sign_server(KEY, CLUSTER, ServerTicket(subject), NOW), verify_server)


def test_server_tickets_say_whose_they_are():
    assert ServerTicket("metaserver").is_metaserver
    assert ServerTicket("metaserver").server == 0
    assert ServerTicket("chunkserver:12").server == 12
    assert not ServerTicket("chunkserver:12").is_metaserver


def test_roles_say_who_may_write():
    roles = {role: Identity("1", "a", 1, "d", 1, role, 1).may_write for role in ("owner", "editor", "reader")}
    assert roles == {"owner": True, "editor": True, "reader": False}


def test_the_key_id_of_a_token_can_be_read_unverified():
    assert kid_of_token(sign_identity(KEY, CLUSTER, IDENTITY, NOW)) == KEY.kid


class TestVerifiedTokens:
    """A memory of tokens that verified."""

    @pytest.fixture
    def asked(self):
        return []

    @pytest.fixture
    def memory(self, asked):
        def verify(token, now_s):
            asked.append(token)
            return verify_chunk(RING, token, CLUSTER, now_s)

        return VerifiedTokens(verify, entries=2)

    def ticket(self, chunk):
        return sign_chunk(KEY, CLUSTER, ChunkTicket("read", 9, chunk), NOW)

    def test_a_known_token_is_not_verified_again(self, memory, asked):
        assert memory.verify(self.ticket(1), NOW) is memory.verify(self.ticket(1), NOW + 60)
        assert len(asked) == 1

    def test_a_known_token_still_expires(self, memory, asked):
        memory.verify(self.ticket(1), NOW)
        for _ in range(2):
            with pytest.raises(Denied):
                memory.verify(self.ticket(1), int(NOW) + CHUNK_LIFE_S + LEEWAY_S)

    def test_a_bad_token_is_never_remembered(self, memory, asked):
        for _ in range(2):
            with pytest.raises(Denied):
                memory.verify("bad", NOW)
        assert asked == ["bad", "bad"]

    def test_it_is_bounded_and_forgets_what_was_not_used(self, memory, asked):
        one, two, three = map(self.ticket, (1, 2, 3))
        for token in (one, two, one, three, one, two):
            memory.verify(token, NOW)
        assert asked == [one, two, three, two]

    def test_new_keys_clear_it(self, memory, asked):
        memory.verify(self.ticket(1), NOW)
        memory.clear()
        memory.verify(self.ticket(1), NOW)
        assert len(asked) == 2
