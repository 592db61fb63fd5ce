"""Receipts: nobody without the key makes or alters one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cloudverge_protocol.messages import Receipt
from cloudverge_protocol.receipts import (
    KEY_BYTES,
    MAC_BYTES,
    heartbeat_is_genuine,
    heartbeat_proof,
    make_receipt,
    receipt_is_genuine,
)

KEY = bytes(range(KEY_BYTES))
numbers = st.integers(0, (1 << 64) - 1)


@given(numbers, numbers, numbers, numbers)
def test_a_receipt_is_genuine_under_its_key_alone(server: int, chunk: int, epoch: int, length: int) -> None:
    receipt = make_receipt(KEY, server, chunk, epoch, length)
    assert receipt_is_genuine(KEY, receipt)
    assert not receipt_is_genuine(bytes(KEY_BYTES), receipt)
    assert len(receipt.mac) == MAC_BYTES


@pytest.mark.parametrize("field", ["server", "chunk", "epoch", "length"])
@pytest.mark.parametrize("value", [0, 6, -1, 1 << 64, 1 << 70])
def test_a_receipt_with_another_number_in_it_is_not_genuine(field: str, value: int) -> None:
    receipt = make_receipt(KEY, 1, 2, 3, 4)
    assert not receipt_is_genuine(KEY, replace(receipt, **{field: value}))


@given(st.binary(max_size=70))
def test_another_mac_is_not_genuine(mac: bytes) -> None:
    genuine = make_receipt(KEY, 1, 2, 3, 4)
    assert receipt_is_genuine(KEY, Receipt(1, 2, 3, 4, mac)) == (mac == genuine.mac)


def test_a_receipt_is_the_same_on_every_machine() -> None:
    assert make_receipt(KEY, 1, 2, 3, 4).mac.hex() == "c22e7b4bc22731dd50d401d8cfe85886"


@given(numbers, st.binary(max_size=300))
def test_a_heartbeat_is_genuine_for_its_server_its_bytes_and_its_key_alone(server: int, body: bytes) -> None:
    proof = heartbeat_proof(KEY, server, body)
    assert heartbeat_is_genuine(KEY, server, body, proof)
    assert not heartbeat_is_genuine(bytes(KEY_BYTES), server, body, proof)
    assert not heartbeat_is_genuine(KEY, server ^ 1, body, proof)
    assert not heartbeat_is_genuine(KEY, server, body + b" ", proof)


@given(st.text(max_size=40))
def test_another_proof_is_not_genuine(proof: str) -> None:
    assert heartbeat_is_genuine(KEY, 1, b"{}", proof) == (proof == heartbeat_proof(KEY, 1, b"{}"))


def test_a_heartbeats_proof_is_the_same_on_every_machine() -> None:
    assert heartbeat_proof(KEY, 1, b"{}") == "4b2fb1ac4fec5e2a24e1d3bca9270f98"
