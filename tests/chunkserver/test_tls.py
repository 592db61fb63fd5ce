"""Over TLS the chain works alike, and who does not speak it is turned away."""

from pathlib import Path

import pytest
import trustme

from cloudverge_chunkserver.server import Security
from cloudverge_protocol.errors import CloudVergeError, Code, ProtocolFault
from cloudverge_protocol.ids import PROTOCOL_VERSION
from cloudverge_protocol.messages import FrameType, Hello
from cloudverge_wire.frameclient import FrameClient
from cloudverge_wire.listen import TlsFiles, client_tls, server_tls

pytestmark = pytest.mark.anyio


@pytest.fixture
def security(tmp_path: Path) -> Security:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    files = TlsFiles(tmp_path / "ca.pem", tmp_path / "server.pem", tmp_path / "server.key")
    authority.cert_pem.write_to_path(files.ca)
    certificate.cert_chain_pems[0].write_to_path(files.certificate)
    certificate.private_key_pem.write_to_path(files.key)
    return Security(server_tls(files), client_tls(files.ca))


async def test_a_chain_over_tls(cluster, security):
    for number in (1, 2):
        await cluster.start(number, security=security)
    hello = Hello(PROTOCOL_VERSION, cluster.entry(1))
    raw = await FrameClient.connect("127.0.0.1", cluster.servers[1].port, lambda: hello, ssl=security.client)
    data = bytes(300_000)
    message = cluster.client_on(raw).append_message(5, 0, data, sync=True, onward=(cluster.place(2),))
    reply, _ = await raw.call(FrameType.APPEND, message, (data,))
    assert (reply.failed, len(reply.receipts)) == (0, 2)
    raw.close()


async def test_plain_text_is_not_understood(cluster, security):
    await cluster.start(1, security=security)
    with pytest.raises(CloudVergeError) as caught:
        await cluster.client(1)
    assert caught.value.code == Code.UNREACHABLE


async def test_plain_text_never_leaves_the_machine_by_accident(cluster, tmp_path):
    server = await cluster.start(1)
    with pytest.raises(ProtocolFault):
        await server.listen("0.0.0.0", 0)
