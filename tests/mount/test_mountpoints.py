"""Mount tables, mount options, fstab devices and addresses: text in, meaning out."""

from pathlib import Path

import pytest

from cloudverge_mount.credentials import file_name
from cloudverge_mount.cvmount import build_parser, make_config
from cloudverge_mount.endpoints import load_cluster, remote, split_address
from cloudverge_mount.errnos import errno_of
from cloudverge_mount.fstab import arguments_of, split_device
from cloudverge_mount.kernelmount import fuse_options
from cloudverge_mount.mountpoints import parse_mountinfo, prepare, resolve
from cloudverge_mount.options import parse_options
from cloudverge_protocol.errors import Code, ProtocolFault, Refused, Unavailable, make_error

TABLE = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
90 22 0:45 / /home/ann/my\\040cloud rw,nosuid,nodev - fuse cloudverge:ann rw,user_id=1000
91 22 0:46 / /home/ann/cloud rw - fuse cloudverge:ann rw
92 22 0:47 / /home/ann/cloud rw - tmpfs none rw
short line
"""


def test_the_mount_table_is_read_with_its_escapes_and_the_top_mount_counts():
    there = parse_mountinfo(TABLE, Path("/home/ann/my cloud"))
    assert there == ("0:45", "fuse", "cloudverge:ann")
    assert parse_mountinfo(TABLE, Path("/home/ann/cloud")).kind == "tmpfs"
    assert parse_mountinfo(TABLE, Path("/home/ann")) is None


def test_a_mountpoint_is_made_and_what_it_would_hide_is_not_hidden_by_accident(tmp_path):
    prepare(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "a" / "file").touch()
    with pytest.raises(Refused, match="not empty"):
        prepare(tmp_path / "a")
    prepare(tmp_path / "a", nonempty=True)
    with pytest.raises(Refused, match="not a folder"):
        prepare(tmp_path / "a" / "file")


def test_a_mountpoint_is_named_the_same_however_one_gets_there(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    assert resolve(Path("cloud")) == resolve(tmp_path / "link" / "x" / ".." / "cloud")
    assert resolve(Path("/")) == Path("/")


def test_options_are_sorted_out():
    options = parse_options(
        ["preserve_owner,allow_other", "suid,dev,x-systemd.automount,_netdev,space=photos"]
    )
    assert options.preserve_owner
    assert options.kernel == ("allow_other", "suid", "dev")
    assert options.values == {"space": "photos"}
    assert fuse_options(options, "ann", uid=0) == {
        "default_permissions", "allow_other", "suid", "dev", "fsname=cloudverge:ann",
    }  # fmt: skip


def test_permissions_are_left_to_the_kernel_unless_nobody_but_root_can_get_in():
    here = parse_options(["fsname=here"])
    assert fuse_options(here, "ann", uid=0) == {"fsname=here"}
    assert fuse_options(here, "ann", uid=1000) == {"default_permissions", "fsname=here"}
    for word in ("allow_other", "allow_root"):
        assert "default_permissions" in fuse_options(parse_options([word]), "ann", uid=0)


@pytest.mark.parametrize("word", ["preserve_owners", "allow_other=1", "fsname", "max_read=4096", "space"])
def test_an_option_nobody_knows_is_refused_by_name(word):
    with pytest.raises(Refused, match=word):
        parse_options([word])


@pytest.mark.parametrize(
    ("device", "named"),
    [
        ("cloudverge", {}),
        ("none#photos", {"space": "photos"}),
        ("/srv/cluster", {"cluster": "/srv/cluster"}),
        ("/srv/cluster#photos", {"cluster": "/srv/cluster", "space": "photos"}),
        ("https://files.example.org#12", {"server": "https://files.example.org", "space": "12"}),
    ],
)
def test_a_device_of_fstab_names_a_cluster_and_a_space(device, named):
    assert split_device(device) == named


def test_a_device_that_names_nothing_is_refused():
    with pytest.raises(Refused):
        split_device("server:/export")


def test_the_command_line_of_mount_8_becomes_one_of_cvmount():
    words = arguments_of(["/srv/c#photos", "/mnt/x", "-n", "-v", "-o", "rw,nosuid,cache-dir=/var/cache/x"])
    config = make_config(build_parser().parse_args(words))
    assert config.mountpoint == Path("/mnt/x")
    assert config.cluster_folder == Path("/srv/c")
    assert config.cache_folder == Path("/var/cache/x")
    assert config.space == "photos"
    assert "subtype" not in str(config.options.kernel)
    assert config.options.fsname == "/srv/c#photos"
    assert arguments_of(["none", "/mnt/x", "-f"]) is None


def test_the_default_cluster_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("CLOUDVERGE_DATA_DIR", str(tmp_path))
    assert make_config(build_parser().parse_args(["/mnt/x"])).cluster_folder == tmp_path


def test_endpoints_are_read_from_the_cluster_folder(tmp_path):
    with pytest.raises(Unavailable, match="no cluster"):
        load_cluster(tmp_path)
    (tmp_path / "cluster.json").write_text("{}")
    with pytest.raises(ProtocolFault, match="damaged"):
        load_cluster(tmp_path)
    (tmp_path / "cluster.json").write_text(
        '{"cluster": "abc", "auth_url": "http://127.0.0.1:1", "metaserver_frames": "127.0.0.1:2", "ca": null}'
    )
    assert load_cluster(tmp_path).metaserver == ("127.0.0.1", 2)


def test_addresses_are_split_and_nonsense_is_refused():
    assert split_address("host:12") == ("host", 12)
    assert split_address("[::1]:12") == ("::1", 12)
    for text in ("", ":12", "host:port"):
        with pytest.raises(ProtocolFault):
            split_address(text)


def test_a_password_never_travels_in_plain_text_to_another_machine():
    assert remote("http://127.0.0.1:80", None, None).metaserver[0] == "127.0.0.1"
    with pytest.raises(Refused, match="https"):
        remote("http://files.example.org", None, None)


def test_a_server_does_not_choose_the_file_of_its_credentials():
    with pytest.raises(ProtocolFault):
        file_name("../../etc/passwd", "ann")
    with pytest.raises(Refused):
        file_name("0123456789abcdef", "../ann")


def test_every_code_has_an_errno():
    assert all(errno_of(make_error(code)) > 0 for code in Code)
