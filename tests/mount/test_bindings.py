"""Which binding serves a mount, and where access control lists are heeded."""

import pytest

from cloudverge_mount import bindings
from cloudverge_mount.bindings import choose, heeds_acls
from cloudverge_mount.options import parse_options
from cloudverge_protocol.errors import Code, Refused


@pytest.fixture
def without_pyfuse3(monkeypatch):
    monkeypatch.setattr(bindings, "find_spec", lambda name: None)


def test_pyfuse3_is_the_default_where_it_is_installed():
    assert choose("") == "pyfuse3"
    assert choose("direct") == "direct"


def test_without_pyfuse3_the_direct_binding_serves(without_pyfuse3):
    assert choose("") == "direct"
    with pytest.raises(Refused, match="pip install"):
        choose("pyfuse3")


def test_an_unknown_binding_is_refused_by_name():
    with pytest.raises(Refused, match="fuse=libfuse is no binding") as caught:
        choose("libfuse")
    assert caught.value.code == Code.INVALID


def test_lists_are_heeded_where_the_kernel_checks_or_on_request():
    plain, asked = parse_options(["fuse=direct"]), parse_options(["acl"])
    assert heeds_acls("direct", plain, checked=True)
    assert not heeds_acls("direct", plain, checked=False)
    assert heeds_acls("direct", asked, checked=False)
    assert not heeds_acls("pyfuse3", plain, checked=True)
    with pytest.raises(Refused, match="fuse=direct"):
        heeds_acls("pyfuse3", asked, checked=True)
