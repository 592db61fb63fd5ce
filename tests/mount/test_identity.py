"""Signing in and tickets, of people and machines, against an auth server played over httpx's transport."""

import json

import httpx
import pytest
import trio

from cloudverge_mount.authclient import AuthClient
from cloudverge_mount.credentials import CredentialFile, Credentials
from cloudverge_mount.identity import Identity, MachineIdentity
from cloudverge_protocol.errors import Denied, ProtocolFault, Unavailable

pytestmark = pytest.mark.trio

CLUSTER = "0123456789abcdef0123456789abcdef"


class PlayedAuth:
    """One account, rotating refresh tokens, and a switch to be away."""

    label = ""

    def __init__(self):
        self.password = None
        self.refresh_tokens = []
        self.given = 0
        self.away = False
        self.loses_answers = False
        self.traded = {}  # what a refresh token that is spent was traded for
        self.ended = None  # how tickets are refused
        self.asked = []
        self.bodies = []

    def __call__(self, request):
        if self.away:
            raise httpx.ConnectError("away")
        path = request.url.path
        body = json.loads(request.content) if request.content else {}
        self.asked.append(path)
        self.bodies.append(body)
        answer = getattr(self, path.rpartition("/")[2])(body)
        if self.loses_answers:
            raise httpx.ReadTimeout("the answer is lost")
        return answer

    @staticmethod
    def refusal(status, code):
        return httpx.Response(status, json={"code": code, "message": code.lower()})

    def tokens(self, token=""):
        self.refresh_tokens.append(token or f"refresh-{len(self.refresh_tokens)}")
        return httpx.Response(
            200,
            json={
                "access_token": "access",
                "access_expires_s": 900,
                "refresh_token": self.refresh_tokens[-1],
                "cluster": CLUSTER,
            },
        )

    def signup(self, body):
        if self.password is not None:
            return self.refusal(409, "EXISTS")
        self.password = body["password"]
        return self.tokens()

    def login(self, body):
        return self.tokens() if body["password"] == self.password else self.refusal(401, "UNAUTHORIZED")

    def refresh(self, body):
        token, following = body["refresh_token"], body["next_token"]
        if token != self.refresh_tokens[-1] and self.traded.get(token) != following:
            return self.refusal(401, "UNAUTHORIZED")
        self.traded[token] = following
        return self.tokens(following)

    def tickets(self, body):
        if self.ended:
            return self.refusal(*self.ended)
        self.given += 1
        ticket = {"ticket": f"ticket-{self.given}", "expires_s": 60, "space": 7, "role": "owner"}
        return httpx.Response(200, json=ticket | {"grant": body.get("grant"), "label": self.label})

    def machine(self, body):
        return (
            self.tickets({"grant": 3})
            if body == {"token": "cvt_camera"}
            else self.refusal(401, "UNAUTHORIZED")
        )

    def keys(self, body):
        return httpx.Response(200, json={"cluster": CLUSTER, "keys": {}})

    def spaces(self, body):
        return httpx.Response(200, json=[{"id": 7, "name": "ann", "role": "owner"}])


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def auth():
    return PlayedAuth()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def file(tmp_path):
    return CredentialFile(tmp_path / "secrets" / "user.json")


@pytest.fixture
async def client(auth):
    async with AuthClient("http://auth", transport=httpx.MockTransport(auth)) as opened:
        yield opened


@pytest.fixture
def sign(client, file, clock):
    """Make an Identity over the played server."""

    def make(cluster=CLUSTER, **settings):
        return Identity(client, file, cluster=cluster, user="ann", device="laptop", clock=clock, **settings)

    return make


async def test_an_embedded_clusters_user_is_signed_up_and_remembered(sign, auth, tmp_path):
    identity = sign(may_sign_up=True)
    ticket = await identity.ticket()
    assert (ticket.ticket, ticket.space) == ("ticket-1", 7)
    assert await identity.space_name() == "ann"
    path = tmp_path / "secrets" / "user.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert auth.password in path.read_text()
    assert (await sign(may_sign_up=True).ticket()).ticket == "ticket-2"
    assert auth.asked.count("/v1/signup") == 1
    assert "/v1/refresh" in auth.asked


async def test_a_crash_between_the_note_and_the_sign_up_is_repaired(sign, auth, file):
    identity = sign(may_sign_up=True)
    file.save(Credentials(CLUSTER, "ann", "a long password"))
    await identity.ticket()
    assert auth.password == "a long password"


async def test_a_crash_after_the_sign_up_is_repaired(sign, auth, file):
    auth.password = "a long password"
    identity = sign(may_sign_up=True)
    file.save(Credentials(CLUSTER, "ann", "a long password"))
    assert await identity.ticket()


async def test_a_spent_refresh_token_falls_back_on_the_password(sign, auth):
    identity = sign(may_sign_up=True)
    await identity.ticket()
    auth.refresh_tokens.append("somebody else's")
    assert await sign(may_sign_up=True).ticket()
    assert auth.asked[-2:] == ["/v1/login", "/v1/tickets"]


async def test_a_refresh_whose_answer_is_lost_is_asked_for_again_and_signs_nobody_out(sign, auth, file):
    auth.password = "typed by ann"
    await sign().sign_in_with("typed by ann")
    spent = file.load().refresh_token
    auth.loses_answers = True
    for _ in range(3):
        with pytest.raises(Unavailable):
            await sign().ticket()
    asked = [(body["refresh_token"], body["next_token"]) for body in auth.bodies if "next_token" in body]
    assert len(set(asked)) == 1, "the same trade every time"
    assert file.load().next_token == asked[0][1]
    auth.loses_answers = False
    assert await sign().ticket()
    kept = file.load()
    assert (kept.refresh_token, kept.next_token) == (asked[0][1], "")
    assert kept.refresh_token != spent
    assert await sign().ticket()


async def test_a_server_that_chooses_the_next_token_itself_is_followed(sign, auth, file, monkeypatch):
    auth.password = "typed by ann"
    await sign().sign_in_with("typed by ann")
    monkeypatch.setattr(auth, "refresh", lambda body: auth.tokens())
    assert await sign().ticket()
    assert (file.load().refresh_token, file.load().next_token) == (auth.refresh_tokens[-1], "")


async def test_elsewhere_only_the_refresh_token_is_kept_and_its_end_is_told(sign, auth, file):
    auth.password = "typed by ann"
    identity = sign()
    with pytest.raises(Denied, match="not signed in"):
        await identity.ticket()
    await identity.sign_in_with("typed by ann")
    assert "typed by ann" not in file.path.read_text()
    assert await sign().ticket()
    auth.refresh_tokens.append("revoked")
    with pytest.raises(Denied, match="signed out"):
        await sign().ticket()


async def test_tickets_are_handed_out_fresh_and_outlive_a_short_absence_of_auth(sign, auth, clock):
    identity = sign(may_sign_up=True)
    assert (await identity.ticket()).ticket == "ticket-1"
    clock.now += 5
    assert (await identity.ticket()).ticket == "ticket-1"
    clock.now += 10
    assert (await identity.ticket()).ticket == "ticket-2"
    auth.away = True
    clock.now += 50
    assert (await identity.ticket()).ticket == "ticket-2"
    clock.now += 10
    with pytest.raises(Unavailable):
        await identity.ticket()
    auth.away = False
    assert (await identity.ticket()).ticket == "ticket-3"


async def test_two_that_refresh_at_once_use_different_refresh_tokens(sign, auth):
    await sign(may_sign_up=True).ticket()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(sign(may_sign_up=True).ticket)
    assert auth.asked.count("/v1/refresh") == 5
    assert "/v1/login" not in auth.asked


async def test_another_clusters_answer_is_not_believed(sign, auth, file):
    auth.password = "typed by ann"
    with pytest.raises(ProtocolFault, match=CLUSTER):
        await sign(cluster="ffff0000ffff0000").sign_in_with("typed by ann")
    assert file.load() is None


@pytest.mark.parametrize("how", [(401, "UNAUTHORIZED"), (403, "FORBIDDEN"), (404, "NOT_FOUND")])
async def test_a_refusal_is_final_while_an_absence_is_not(sign, auth, how):
    identity = sign(may_sign_up=True)
    await identity.ticket()
    identity.renew()
    auth.away = True
    assert (await identity.ticket()).ticket == "ticket-1"
    auth.away, auth.ended = False, how
    with pytest.raises(Denied):
        await identity.ticket()
    auth.away = True
    with pytest.raises(Unavailable):  # the old ticket is not handed out again
        await identity.ticket()


async def test_being_asked_to_wait_is_no_refusal(sign, auth):
    identity = sign(may_sign_up=True)
    await identity.ticket()
    identity.renew()
    auth.ended = (429, "BUSY")
    assert (await identity.ticket()).ticket == "ticket-1"


async def test_a_ticket_that_was_refused_is_not_handed_out_again(sign, auth):
    identity = sign(may_sign_up=True)
    await identity.ticket()
    identity.renew()
    assert (await identity.ticket()).ticket == "ticket-2"
    assert (await identity.ticket()).ticket == "ticket-2"


async def test_a_grant_is_asked_for_by_its_number_and_called_by_its_label(sign, auth):
    auth.label = "photos of ann's ann"
    identity = sign(may_sign_up=True, grant=3)
    assert (await identity.ticket()).grant == 3
    assert auth.bodies[-1] == {"space": "", "grant": 3}
    assert await identity.space_name() == "photos of ann's ann"


async def test_a_machine_has_tickets_by_its_token_alone_and_its_end_is_final(client, auth, clock):
    machine = MachineIdentity(client, "cvt_camera", cluster=CLUSTER, clock=clock)
    assert (await machine.ticket()).grant == 3
    assert auth.asked == ["/v1/machine"]
    with pytest.raises(Denied):
        await MachineIdentity(client, "cvt_other", cluster=CLUSTER, clock=clock).ticket()
    assert "cvt_camera" not in repr(machine)


async def test_nothing_that_holds_a_secret_shows_it(client, auth):
    auth.password = "typed by ann"
    tokens = await client.sign_in("ann", "typed by ann", "laptop")
    shown = repr(
        (tokens, await client.ticket(tokens.access_token, ""), Credentials(CLUSTER, "ann", "pass", "refr"))
    )
    assert not [
        secret for secret in ("access", "refresh-", "ticket-", "pass", "refr") if f"'{secret}" in shown
    ]
    assert CLUSTER in shown
