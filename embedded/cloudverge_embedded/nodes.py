"""The verb ``cv add-node``: a one-time code by which another machine brings its disk into this cluster.

The operator is known by the join token in the cluster folder. What is printed lets one machine in, once, and names
the cluster's authority by its fingerprint, so that the other machine cannot be led to a stranger.
"""

import ssl
from pathlib import Path
from typing import Annotated, Final

import httpx
import msgspec
import typer

from cloudverge_embedded.certificates import fingerprint
from cloudverge_embedded.folder import Folder, default_root
from cloudverge_embedded.report import load_report
from cloudverge_embedded.settings import Settings
from cloudverge_protocol.errors import CloudVergeError, Code, Refused, Unavailable, make_error
from cloudverge_protocol.refusals import read_refusal

TIMEOUT_S: Final = 10.0


class _Node(msgspec.Struct):
    code: str


def add_node(
    folder: Annotated[
        Path | None, typer.Option("--dir", help="The cluster's folder.", show_default="your data folder")
    ] = None,
) -> None:
    """Print the line that joins another machine's disk to this cluster; good once, for 30 minutes."""
    typer.echo(join_line(Folder(folder.expanduser().absolute() if folder else default_root())))


def join_line(folder: Folder) -> str:
    """The command to be given on the other machine."""
    settings, report = Settings.load(folder), load_report(folder)
    if settings is None or report is None or not report.get("supervisor_pid"):
        raise Unavailable(Code.UNAVAILABLE, f"no cluster runs in {folder.root}: start it with cv up")
    if not settings.listen:
        raise Refused(
            Code.INVALID,
            "this cluster is not reached from other machines: cv down, then cv up --listen ADDRESS, once",
        )
    url = str(report["auth_url"])
    code = _ask_for_code(url, folder)
    return f"cv join {url} {code} --fingerprint {fingerprint(folder.ca_certificate.read_bytes())}"


def _ask_for_code(url: str, folder: Folder) -> str:
    trusted = ssl.create_default_context(cafile=str(folder.ca_certificate))
    token = folder.join_token.read_text().strip()
    try:
        with httpx.Client(verify=trusted, timeout=TIMEOUT_S, trust_env=False) as http:
            answer = http.post(f"{url}/v1/nodes", json={}, headers={"Authorization": f"Bearer {token}"})
    except httpx.HTTPError as error:
        raise Unavailable(Code.UNREACHABLE, f"auth at {url} cannot be reached: {error}") from None
    if answer.is_error:
        raise _refusal(answer, url)
    try:
        return msgspec.json.decode(answer.content, type=_Node).code
    except msgspec.DecodeError:
        raise Unavailable(Code.INTERNAL, f"auth at {url} answered oddly to /v1/nodes") from None


def _refusal(answer: httpx.Response, url: str) -> CloudVergeError:
    said = read_refusal(answer.content)
    code = said.code or Code.UNAVAILABLE
    return make_error(code, f"auth at {url} gives no code ({answer.status_code}): {said.message}")
