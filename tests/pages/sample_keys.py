"""A proxy with invented virtual keys, teams and used budgets, for the pictures of the documentation."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import structs
from playwright.sync_api import Page

from anthropic_proxy.console.keys.administration import KeyAdministration
from anthropic_proxy.console.keys.virtual_keys import Team, VirtualKey
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.settings.key_rules import Rules, decode_budget
from anthropic_proxy.plugins import Client
from tests.pages.sample_activity import write_sample_activity
from tests.pages.sample_day import write_sample_day
from tests.support.dashboard import ledger_settings
from tests.support.server_process import Proxy, running_proxy
from tests.support.virtual_keys import change_team, create_key, revoke_key

ADMIN_KEY = "admin-key-of-the-picture"
_DAY = 86_400.0
_TEAM = Team("build", Rules(tokens_per_minute=400_000, budgets=(decode_budget("200USD/month"),)))
_KEYS = (
    VirtualKey(
        id="",
        label="checkout CI",
        owner="ada@example.org",
        team="build",
        rules=Rules(models=("claude-*",), requests_per_minute=60, budgets=(decode_budget("25USD/month"),)),
    ),
    VirtualKey(
        id="",
        label="grace, laptop",
        owner="grace@example.org",
        team="platform",
        rules=Rules(concurrency=4, budgets=(decode_budget("20USD/day"),)),
    ),
    VirtualKey(
        id="",
        label="nightly report",
        owner="ada@example.org",
        team="build",
        rules=Rules(routes=("night",), budgets=(decode_budget("20USD/month"),)),
        expires_at=time.time() + 3.2 * _DAY,
    ),
    VirtualKey(id="", label="docs search", owner="docs team", rules=Rules(tokens_per_minute=50_000)),
    VirtualKey(id="", label="old laptop of grace", owner="grace@example.org", team="platform"),
)
_AGE = 40 * _DAY
"""Seconds since the keys and their budgets were set."""


@contextmanager
def running_sample_keys(directory: Path) -> Iterator[Proxy]:
    """Yield a proxy with keys, and a day of their requests and of the work of Claude Code."""
    directory.mkdir()
    clients = [Client(name=key.label, owner=key.owner, team=key.team) for key in _KEYS[:4]]
    write_sample_day(directory / "ledger.sqlite3", clients=clients)
    environ = ledger_settings(directory, VIRTUAL_KEYS="true", ADMIN_API_KEY=ADMIN_KEY, XDG_DATA_HOME=str(directory))
    connection = open_for_writing(load_settings(environ, PROVIDERS, env_file=None))
    administration = KeyAdministration(connection, "API (admin key 1)", lambda: time.time() - _AGE)
    for key in _KEYS:
        create_key(administration, key)
    revoke_key(administration, "old laptop of grace")
    change_team(administration, _TEAM.name, structs.asdict(_TEAM.rules))
    connection.close()
    write_sample_activity(directory, environ, {key.label: (key.owner, key.team) for key in _KEYS[:3]})
    with running_proxy(directory, environ) as proxy:
        yield proxy


def sign_in(page: Page) -> None:
    """Sign in with the admin key."""
    page.goto("/dashboard/keys")
    page.get_by_label("Key").fill(ADMIN_KEY)
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name="Keys").wait_for()
