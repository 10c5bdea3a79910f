"""A proxy with invented virtual keys, teams and used budgets, for the pictures of the documentation."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import structs
from playwright.sync_api import Page

from anthropic_proxy.console.keys.administration import KeyAdministration
from anthropic_proxy.console.keys.limits import build_budget_counter, list_scopes
from anthropic_proxy.console.keys.virtual_keys import Rules, Team, VirtualKey, decode_budget
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.money import NANO_DOLLARS
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.gateway.stores import open_store
from tests.pages.sample_day import write_sample_day
from tests.support.dashboard import ledger_settings
from tests.support.server_process import Proxy, running_proxy

ADMIN_KEY = "admin-key-of-the-picture"
_DAY = 86_400.0
_TEAM = Team("build", Rules(tokens_per_minute=400_000, budgets=(decode_budget("200USD/month"),)))
_ROWS: tuple[tuple[VirtualKey, float], ...] = (
    (
        VirtualKey(
            id="",
            label="checkout CI",
            owner="ada@example.org",
            team="build",
            rules=Rules(models=("claude-*",), requests_per_minute=60, budgets=(decode_budget("50USD/month"),)),
        ),
        41.8,
    ),
    (
        VirtualKey(
            id="",
            label="grace, laptop",
            owner="grace@example.org",
            team="platform",
            rules=Rules(concurrency=4, budgets=(decode_budget("20USD/day"),)),
        ),
        6.4,
    ),
    (
        VirtualKey(
            id="",
            label="nightly report",
            owner="ada@example.org",
            team="build",
            rules=Rules(routes=("night",), budgets=(decode_budget("5USD/day"),)),
            expires_at=3.2 * _DAY,
        ),
        5.0,
    ),
    (VirtualKey(id="", label="docs search", owner="docs team", rules=Rules(tokens_per_minute=50_000)), 0.0),
    (VirtualKey(id="", label="old laptop of grace", owner="grace@example.org", team="platform"), 0.0),
)
"""Keys, with expiries in seconds from now, and the used dollars of their budget."""


@contextmanager
def running_sample_keys(directory: Path) -> Iterator[Proxy]:
    """Yield a proxy with keys, and a day of their requests."""
    directory.mkdir()
    write_sample_day(directory / "ledger.sqlite3", keys=[key.label for key, _ in _ROWS[:4]])
    environ = ledger_settings(directory, VIRTUAL_KEYS="true", ADMIN_API_KEY=ADMIN_KEY, XDG_DATA_HOME=str(directory))
    settings = load_settings(environ, PROVIDERS, env_file=None)
    keys = _create_keys(settings)
    asyncio.run(_use_budgets(settings, keys))
    with running_proxy(directory, environ) as proxy:
        yield proxy


def sign_in(page: Page) -> None:
    """Sign in with the admin key."""
    page.goto("/dashboard/keys")
    page.get_by_label("Key").fill(ADMIN_KEY)
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name="Keys").wait_for()


def _create_keys(settings: Settings) -> list[VirtualKey]:
    engine = open_for_writing(settings)
    administration = KeyAdministration(engine, "API (admin key 1)")
    found = []
    for key, _ in _ROWS:
        expires_at = None if key.expires_at is None else time.time() + key.expires_at
        found.append(administration.create_key(structs.replace(key, expires_at=expires_at))[0])
    administration.revoke_key("old laptop of grace")
    administration.change_team(_TEAM.name, structs.asdict(_TEAM.rules))
    engine.dispose()
    return found


async def _use_budgets(settings: Settings, keys: list[VirtualKey]) -> None:
    store, now = open_store(settings, print), time.time()
    used = [(list_scopes(key, None)[0], dollars) for key, (_, dollars) in zip(keys, _ROWS, strict=True)]
    of_team = sum(dollars for key, (_, dollars) in zip(keys, _ROWS, strict=True) if key.team == _TEAM.name)
    for scope, dollars in [*used, (list_scopes(keys[0], _TEAM)[1], of_team)]:
        for budget in scope.rules.budgets:
            counter = build_budget_counter(scope, budget, now)
            reservation = await store.reserve([structs.replace(counter, amount=1)])
            await store.settle(reservation, [round(dollars * NANO_DOLLARS)])
    await store.close()
