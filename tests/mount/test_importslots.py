"""Import slots of libraries that are really loaded: what cannot be done is said before anything is changed."""

import ctypes

import pyfuse3
import pytest

from cloudverge_mount.importslots import Unsupported, find_slot, swap


def test_a_slot_is_found_swapped_and_restored():
    libfuse = ctypes.CDLL("libfuse3.so.3")
    address = ctypes.cast(libfuse.fuse_session_new, ctypes.c_void_p).value
    before = swap(pyfuse3.__file__, "fuse_session_new", address)
    assert swap(pyfuse3.__file__, "fuse_session_new", before) == address


def test_what_is_not_imported_or_not_loaded_is_said():
    with pytest.raises(Unsupported, match="does not import"):
        find_slot(pyfuse3.__file__, "no_such_function")
    with pytest.raises(Unsupported, match="not loaded"):
        find_slot("/no/such/library.so", "fuse_session_new")
