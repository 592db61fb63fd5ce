"""The body of a refused request, read alike by all who ask."""

import pytest

from cloudverge_protocol.errors import Code
from cloudverge_protocol.refusals import Refusal, read_refusal


def test_a_refusal_says_its_code_and_its_message():
    assert read_refusal(b'{"code":"NOT_FOUND","message":"no such space"}') == Refusal(
        Code.NOT_FOUND, "no such space"
    )


def test_a_code_of_a_later_version_is_none_and_its_message_is_kept():
    assert read_refusal(b'{"code":"LATER","message":"news"}') == Refusal(None, "news")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"code":1}', b"\xff", b'{"message":null}'])
def test_what_is_no_body_of_ours_says_nothing(body):
    assert read_refusal(body) == Refusal()
