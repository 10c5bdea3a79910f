"""Virtual keys in a database, with their policy, for tests."""

import asyncio
import html
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from msgspec import Struct, structs

from anthropic_proxy.app import App
from anthropic_proxy.console.identity.people import OidcUser
from anthropic_proxy.console.keys.administration import NAME_FIELDS, KeyAdministration, KeyCommand
from anthropic_proxy.console.keys.alerts import BudgetAlerts
from anthropic_proxy.console.keys.key_policy import KeyPolicy
from anthropic_proxy.console.keys.key_table import KeyTable
from anthropic_proxy.console.keys.reservations import Reservations
from anthropic_proxy.console.keys.rights import Rights
from anthropic_proxy.console.keys.virtual_keys import Team, VirtualKey
from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.users import list_people_ids
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.gateway.permissions import Role
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.gateway.settings.key_rules import Rules
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import (
    AdmissionRequest,
    AdmissionTarget,
    BudgetLabels,
    Client,
    Gateway,
    Receipt,
    Settle,
)
from anthropic_proxy.secrets import Secret
from tests.support.ledger import NOON

OWN_KEYS = {"proxy_api_keys": (Secret("pk-one"), Secret("pk-two")), "admin_api_keys": (Secret("admin-secret"),)}


def create_key(administration: KeyAdministration, key: VirtualKey) -> tuple[VirtualKey, str]:
    """Return the stored key and its text."""
    fields = {name: getattr(key, name) for name in (*NAME_FIELDS, "expires_at")} | structs.asdict(key.rules)
    outcome = administration.execute(KeyCommand(action="create", fields=fields))
    return outcome.key, outcome.text


def store_key(directory: Path, rules: Rules, team: str = "", *, label: str = "ci", owner: str = "") -> str:
    """Store a key in the database of `running_app`, and return its text."""
    connection = open_for_writing(Settings(data_directory=directory / "anthropic-proxy"))
    key = VirtualKey(id="", label=label, owner=owner, team=team, rules=rules)
    _, text = create_key(KeyAdministration(connection, "test"), key)
    connection.close()
    return text


ISSUER = "https://login.example.org"


def admit(
    connection: Connection,
    address: str,
    *,
    subject: str = "",
    actor: str = "test",
    clock: Callable[[], float] = time.time,
    **fields: Any,
) -> VirtualKey:
    """Return the key of a person that signs in. `subject` "": the address. `fields`: those of its group."""
    user = OidcUser(ISSUER, "proxy", subject or address, address)
    return KeyAdministration(connection, actor, clock).admit_user(user, lambda _: fields, stated_at=clock()).key


class User(Struct, frozen=True, kw_only=True):
    """A user of the dashboard."""

    role: Role
    address: str
    team: str = ""
    rules: Rules = Rules()
    max_keys: int = 0

    def find_rights(
        self, connection: Connection, actor: str = "test", clock: Callable[[], float] = time.time
    ) -> Rights:
        """The user signs in, if it has not before."""
        fields = {"team": self.team, **structs.asdict(self.rules)}
        people = list_people_ids(connection, self.address)
        person = people[0] if people else admit(connection, self.address, actor=actor, clock=clock, **fields).id
        return Rights(role=self.role, person=person, team=self.team, max_keys=self.max_keys)


def change_key(administration: KeyAdministration, name: str, **fields: Any) -> VirtualKey:
    return administration.execute(KeyCommand(action="change", target=name, fields=fields)).key


def rotate_key(administration: KeyAdministration, name: str, overlap_seconds: float = 0.0) -> tuple[VirtualKey, str]:
    fields = {"overlap_seconds": overlap_seconds}
    outcome = administration.execute(KeyCommand(action="rotate", target=name, fields=fields))
    return outcome.key, outcome.text


def revoke_key(administration: KeyAdministration, name: str) -> VirtualKey:
    return administration.execute(KeyCommand(action="revoke", target=name)).key


def change_team(administration: KeyAdministration, name: str, rules: Mapping[str, Any]) -> Team:
    return administration.execute(KeyCommand(action="team", target=name, fields=rules)).team


class Keys:
    """A table of keys and its policy, with a clock that a test sets."""

    def __init__(self, settings: Settings) -> None:
        self.now = NOON
        self.warnings: list[str] = []
        self.connection = open_for_writing(settings)
        self.administration = KeyAdministration(self.connection, "test", lambda: self.now)
        self.table = KeyTable(settings, self.warnings.append, clock=lambda: self.now)
        self.settings = Settings(**OWN_KEYS)
        self.policy = KeyPolicy(
            self.table, lambda: self.settings, lambda: self.now, find_reservations=lambda: self.reservations
        )
        self.store = MemoryStore(clock=lambda: self.now)
        self.reports: list[str] = []
        gateway = SimpleNamespace(store=self.store, settings=settings, log_warning_each_time=self.reports.append)
        scopes = self.table.list_scopes_with_budgets
        self.alerts = BudgetAlerts(cast("Gateway[Settings]", gateway), scopes, lambda: self.now)
        self.reservations = Reservations(self.store, self.warnings.append, note_use=self.alerts.note)

    async def read_uses(self) -> Mapping[BudgetLabels, float]:
        """Return the used shares of `/metrics`."""
        await self.alerts.compare()
        return self.alerts.uses

    async def create(self, label: str, **fields: Any) -> str:
        _, text = create_key(self.administration, VirtualKey(id="", label=label, **fields))
        await self.table.refresh()
        return text

    async def reject(self, key: str) -> str:
        with pytest.raises(ProxyError) as raised:
            await self.policy.identify({"x-api-key": key})
        assert (raised.value.status, raised.value.error_type) == (401, "authentication_error")
        return raised.value.message

    async def admit(self, key: str, *, model: str = "claude-haiku-4-5", **fields: Any) -> "Admitted":
        """Admit a request of the client with this key."""
        client = await self.policy.identify({"x-api-key": key})
        assert client is not None
        target = AdmissionTarget(prefix="openai", model="gpt-4.1-mini", max_output_tokens=1_000)
        request = AdmissionRequest(client=client, model=model, body_bytes=9, **{"targets": [target], **fields})
        settle = await self.policy.admit(request)
        return Admitted(client, request.response_headers, settle)

    async def refuse(self, key: str, status: int, **fields: Any) -> ProxyError:
        with pytest.raises(ProxyError) as raised:
            await self.admit(key, **fields)
        assert raised.value.status == status
        return raised.value

    async def change_rules(self, label: str, **rules: Any) -> None:
        change_key(self.administration, label, **rules)
        await self.table.refresh()

    async def finish(self, admitted: "Admitted", **fields: Any) -> None:
        """Settle the request with a receipt, and wait until its amounts are in the store."""
        admitted.finish(**fields)
        await self.settled()

    async def settled(self) -> None:
        await self.reservations.stop()


class Admitted(Struct):
    """An admitted request."""

    client: Client
    headers: dict[str, str]
    settle: Settle | None

    def finish(self, **fields: Any) -> None:
        """Settle the request with a receipt."""
        assert self.settle is not None
        usual = {"request_id": "req_1", "client": self.client, "started_at": NOON, "outcome": "end_turn"}
        used = {"provider": "openai", "prefix": "openai", "model": "gpt-4.1-mini", "first_token_seconds": 0.1}
        self.settle(Receipt(**{**usual, **used, **fields}))


class Response(Struct):
    """Response of an application."""

    status: int
    headers: dict[str, str]
    body: bytes
    cookies: list[str] = []
    """Headers `Set-Cookie`."""

    @property
    def text(self) -> str:
        return html.unescape(self.body.decode())

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def message(self) -> str:
        """Message of an error."""
        text: str = self.json["error"]["message"]
        return text


async def send(app: App, method: str, path: str, body: Any = None, **headers: str) -> Response:
    """Send a request to an application in this process. A query may follow the path. `body`: JSON, unless bytes."""
    content = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
    requests = [{"type": "http.request", "body": content}]
    sent: list[Any] = []

    async def receive() -> Any:
        if not requests:
            await asyncio.Event().wait()
        return requests.pop()

    async def collect(message: Any) -> None:
        sent.append(message)

    path, _, query = path.partition("?")
    named = {"host": "127.0.0.1", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "client": ("127.0.0.1", 1)}
    await app(
        {**scope, "headers": [(name.encode(), value.encode()) for name, value in named.items()]}, receive, collect
    )
    received = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
    content = b"".join(message.get("body", b"") for message in sent)
    cookies = [value for name, value in received if name == "set-cookie"]
    return Response(sent[0]["status"], dict(received), content, cookies)


@asynccontextmanager
async def running_app(directory: Path, **settings: str) -> AsyncIterator[App]:
    """Yield a started application with the demo, virtual keys and a database in a directory.

    A configuration file in the directory is read.
    """
    fixed = {"LOG_LEVEL": "error", "SERVE_DEMO": "true", "VIRTUAL_KEYS": "true", "XDG_DATA_HOME": str(directory)}
    app = App(load_settings({**fixed, **settings}, PROVIDERS, env_file=str(directory / ".env")), logs_startup=False)
    await app.start()
    yield app
    await app.close()
