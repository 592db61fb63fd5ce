"""Receipts: nobody without the key makes or alters one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cloudverge_protocol.messages import Receipt
from cloudverge_protocol.receipts import KEY_BYTES, MAC_BYTES, make_receipt, receipt_is_genuine

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
