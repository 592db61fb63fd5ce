"""The join token: kept private, compared exactly."""

import pytest

from cloudverge_protocol.errors import Denied, ProtocolFault
from cloudverge_wire.join import check_join_token, new_join_token, read_join_token


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "join-token"
    path.touch(0o600)
    path.write_text(new_join_token() + "\n")
    return path


def test_tokens_differ_and_are_read_back(token_file):
    assert new_join_token() != new_join_token()
    assert read_join_token(token_file) == token_file.read_text().strip()


def test_only_the_same_token_passes(token_file):
    token = read_join_token(token_file)
    check_join_token(token, token)
    for wrong in ("", token[:-1], token + "x", "ö" * 40):
        with pytest.raises(Denied):
            check_join_token(wrong, token)
    with pytest.raises(Denied):
        check_join_token("", "")


def test_a_file_open_to_others_is_refused(token_file):
    token_file.chmod(0o640)
    with pytest.raises(ProtocolFault, match="chmod 600"):
        read_join_token(token_file)


def test_a_missing_or_short_token_is_refused(token_file):
    token_file.write_text("short")
    with pytest.raises(ProtocolFault, match="shorter"):
        read_join_token(token_file)
    token_file.unlink()
    with pytest.raises(ProtocolFault, match="cannot read"):
        read_join_token(token_file)
