"""The error tree: a code, a class, and words for people."""

import pytest

from cloudverge_protocol.errors import (
    ChunkFault,
    CloudVergeError,
    Code,
    Denied,
    NoRoom,
    ProtocolFault,
    Refused,
    Unavailable,
    class_of,
    make_error,
)


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_class_and_comes_back_from_its_number(code: Code) -> None:
    error = make_error(int(code), "what happened")
    assert type(error) is class_of(code)
    assert (error.code, error.message, str(error)) == (code, "what happened", "what happened")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.STALE, Refused),
        (Code.FENCED, Denied),
        (Code.QUOTA, NoRoom),
        (Code.GAP, ChunkFault),
        (Code.RESYNC, ProtocolFault),
        (Code.TIMEOUT, Unavailable),
    ],
)
def test_the_class_says_who_can_do_something_about_it(code: Code, kind: type[CloudVergeError]) -> None:
    assert class_of(code) is kind


def test_a_code_of_a_newer_peer_is_an_internal_error_that_tells_the_number() -> None:
    error = make_error(60_000, "unheard of")
    assert (type(error), error.code) == (Unavailable, Code.INTERNAL)
    assert "60000" in error.message
    assert "unheard of" in error.message


def test_an_error_without_words_is_called_by_its_code() -> None:
    assert Refused(Code.NOT_EMPTY).message == "not empty"
