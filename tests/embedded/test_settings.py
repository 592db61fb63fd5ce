"""What a wish makes of a cluster's settings, and the ports that go with them."""

import random
import socket

import msgspec
import pytest

from cloudverge_embedded.plan import server_plan
from cloudverge_embedded.ports import WELL_KNOWN, check_host, is_free, settle_ports, still_free
from cloudverge_embedded.report import build_report
from cloudverge_embedded.settings import Restart, Settings, Wish, port_names, settle
from cloudverge_protocol.errors import CloudVergeError, Code, Refused

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


# --- where it listens ---------------------------------------------------------------------------------


def with_ports(settings: Settings) -> Settings:
    ports = {name: 20_000 + number for number, name in enumerate(port_names(settings))}
    return msgspec.structs.replace(settings, ports=ports)


def test_without_a_wish_a_cluster_speaks_plain_text_on_loopback():
    assert (NEW.tls, NEW.host) == (False, "127.0.0.1")
    assert with_ports(NEW).url("auth").startswith("http://127.0.0.1:")


def test_an_address_turns_tls_on_and_both_stay():
    listening = settle(NEW, Wish(listen="192.0.2.7"), "", external_database=False)
    assert (listening.tls, listening.host) == (True, "192.0.2.7")
    assert settle(listening, Wish(), "", external_database=False) == listening
    assert settle(NEW, Wish(tls=True), "", external_database=False).host == "127.0.0.1"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "", "10.0.0.1:7420", "https://host", "a b", "-x"])
def test_an_address_by_which_nobody_reaches_us_is_refused(address):
    with pytest.raises(Refused):
        settle(NEW, Wish(listen=address), "", external_database=False)


def test_an_address_of_another_machine_is_refused():
    check_host("127.0.0.1")
    with pytest.raises(Refused, match=r"192\.0\.2\.7"):
        check_host("192.0.2.7")


def test_a_cluster_that_others_reach_has_the_well_known_ports_if_they_are_free(monkeypatch):
    monkeypatch.setitem(WELL_KNOWN, "auth", 7_420)
    free = {7_420: True, 7_421: False}
    monkeypatch.setattr("cloudverge_embedded.ports.is_free", lambda port, host="": free.get(port, True))
    ports = settle_ports(["auth", "metaserver-1.frames"], {}, random.Random(1), "192.0.2.7")
    assert ports["auth"] == 7_420
    assert ports["metaserver-1.frames"] >= 12_000
    assert settle_ports(["auth"], {}, random.Random(1))["auth"] >= 12_000


@pytest.mark.parametrize(
    ("listen", "shown"),
    [("192.0.2.7", "192.0.2.7"), ("2001:db8::7", "[2001:db8::7]"), ("files.example", "files.example")],
)
def test_every_server_is_told_its_certificate_and_everybody_the_address(folder, listen, shown):
    settings = with_ports(settle(NEW, Wish(listen=listen), "", external_database=False))
    for spec in server_plan(folder, settings, "python")[1:]:
        flags = dict(zip(spec.argv[4::2], spec.argv[5::2], strict=True))
        assert flags["--host"] == listen
        assert flags["--tls-ca"] == str(folder.ca_certificate)
        assert flags["--tls-key"] == str(folder.certificate_key(spec.name))
        assert flags["--tls-certificate"] == str(folder.certificate(spec.name))
        assert spec.url.startswith(f"https://{shown}:")
        for name in ("--auth-url", "--metaserver-url", "--metaserver"):
            assert shown in flags.get(name, shown)
    report = build_report(settings, "dsn", [], {}, None)
    assert report["ca"] == "ca.pem"
    assert str(report["auth_url"]).startswith(f"https://{shown}:")
    assert str(report["metaserver_frames"]).startswith(f"{shown}:")


def test_only_auth_is_given_the_authoritys_key(folder):
    settings = with_ports(settle(NEW, Wish(tls=True), "", external_database=False))
    given = {spec.name for spec in server_plan(folder, settings, "python") if str(folder.ca_key) in spec.argv}
    assert given == {"auth"}


def test_without_tls_no_server_is_told_of_certificates(folder):
    for spec in server_plan(folder, with_ports(NEW), "python"):
        assert not [part for part in spec.argv if part.startswith("--tls") or part == str(folder.ca_key)]
