"""Keys and rings survive their trip through bytes and JSON, and nothing else passes for one."""

import json

import pytest

from cloudverge_auth.keys import KEY_BYTES, MAX_RING_KEYS, KeyRing, SigningKey, from_b64, to_b64
from cloudverge_protocol.errors import ProtocolFault


def test_a_key_is_the_same_after_its_bytes():
    key = SigningKey.generate()
    again = SigningKey.from_bytes(key.to_bytes())
    assert (again.kid, again.public_bytes) == (key.kid, key.public_bytes)
    assert len(key.to_bytes()) == KEY_BYTES
    with pytest.raises(ValueError):
        SigningKey.from_bytes(b"short")


def test_keys_differ_and_do_not_show_their_secret():
    one, two = SigningKey.generate(), SigningKey.generate()
    assert one.kid != two.kid
    assert repr(one) == f"SigningKey({one.kid})"


def test_a_ring_is_the_same_after_json():
    one, two = SigningKey.generate(), SigningKey.generate()
    ring = KeyRing({**one.ring().keys, **two.ring().keys})
    again = KeyRing.from_json(json.loads(json.dumps({"cluster": "x", **ring.to_json()})))
    assert again.to_json() == ring.to_json()
    assert one.kid in again
    assert two.kid in again
    assert "other" not in again


KEY = SigningKey.generate()
GOOD = to_b64(KEY.public_bytes)


@pytest.mark.parametrize(
    "value",
    [
        None, [], "x", {}, {"keys": []}, {"keys": {KEY.kid: 5}}, {"keys": {KEY.kid: ""}}, {"keys": {KEY.kid: "!"}},
        {"keys": {KEY.kid: GOOD[:-4]}}, {"keys": {KEY.kid: GOOD + "AAAA"}}, {"keys": {"other": GOOD}},
        {"keys": {5: GOOD}}, {"keys": {str(n): GOOD for n in range(MAX_RING_KEYS + 1)}},
    ],
)  # fmt: skip
def test_what_is_no_ring_is_refused(value):
    with pytest.raises(ProtocolFault):
        KeyRing.from_json(value)


@pytest.mark.parametrize("length", range(5))
def test_base64_is_urlsafe_and_without_padding(length):
    blob = b"\xff" * length
    assert from_b64(to_b64(blob)) == blob
    assert not set(to_b64(blob)) & set("=+/")
