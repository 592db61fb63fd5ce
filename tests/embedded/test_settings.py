"""What a wish makes of a cluster's settings, and the ports that go with them."""

import random
import socket

import pytest

from cloudverge_embedded.ports import is_free, settle_ports, still_free
from cloudverge_embedded.settings import Restart, Settings, Wish, port_names, settle
from cloudverge_protocol.errors import CloudVergeError, Code

NEW = settle(None, Wish(), "c1", external_database=False)


def test_a_new_cluster_has_three_chunkservers_and_two_replicas():
    assert (NEW.chunkservers, NEW.replicas, NEW.restart) == (3, 2, Restart.ALWAYS)


def test_a_cluster_of_one_chunkserver_keeps_one_replica_unless_asked():
    assert settle(None, Wish(chunkservers=1), "c1", external_database=False).replicas == 1


def test_an_empty_wish_changes_nothing():
    assert settle(NEW, Wish(), "another", external_database=False) == NEW


def test_a_cluster_grows_but_does_not_shrink():
    grown = settle(NEW, Wish(chunkservers=5), "", external_database=False)
    assert grown.chunkservers == 5
    assert settle(grown, Wish(chunkservers=2), "", external_database=False).chunkservers == 5


def test_more_replicas_than_chunkservers_are_refused():
    with pytest.raises(CloudVergeError) as refused:
        settle(None, Wish(chunkservers=2, replicas=3), "c1", external_database=False)
    assert refused.value.code is Code.INVALID


def test_settings_survive_the_disk(folder):
    assert Settings.load(folder) is None
    NEW.save(folder)
    assert Settings.load(folder) == NEW


def test_damaged_settings_are_an_error_that_names_the_file(folder):
    folder.settings_file.write_text("{")
    with pytest.raises(CloudVergeError, match=r"settings\.json"):
        Settings.load(folder)


def test_every_server_has_its_port_and_an_external_database_needs_none():
    names = port_names(NEW)
    assert {"postgres", "auth", "metaserver-1", "metaserver-1.frames", "chunkserver-3.frames"} <= set(names)
    outside = settle(None, Wish(), "c1", external_database=True)
    assert "postgres" not in port_names(outside)


def test_ports_are_distinct_free_and_kept():
    names = port_names(NEW)
    ports = settle_ports(names, {}, random.Random(1))
    assert len(set(ports.values())) == len(names)
    assert all(is_free(port) for port in ports.values())
    assert settle_ports([*names, "more"], ports, random.Random(2)).items() >= ports.items()


def test_a_port_taken_by_a_stranger_is_not_kept():
    ports = settle_ports(["a", "b"], {}, random.Random(3))
    with socket.create_server(("127.0.0.1", ports["a"])):
        assert still_free(ports) == {"b": ports["b"]}
