"""A company: an identity provider of other people, PostgreSQL, nginx before four instances, and Claude Code.

Each step is a situation of docs/guide/company.md. It prints its result and its seconds.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2 as httpx

from tests.e2e.claude import find_claude, run_claude
from tests.e2e.company import ADMIN_KEY, Machine
from tests.fleet.identity import OidcProvider, ProviderBrowser
from tests.fleet.programs import reserve_ports
from tests.fleet.setup import Fleet, running_fleet
from tests.support.server_process import Proxy

INSTANCES = 4
SECRET = "secret-of-sign-ins-0123456789abcdef"
ADDRESS = "{name}@example.org"
PROMPT = "Say exactly: still here"
TABLES = """
[providers.openai]
prices = "openai"

[sign_in.groups.developers]
team = "build"
budgets = ["100USD/month"]
"""


class Company:
    """One run for each of the `stores`: "redis", or "postgres" without Redis."""

    def __init__(self, stores: Sequence[str]) -> None:
        self._stores = stores
        self.problems: list[str] = []

    def run(self) -> None:
        for store in self._stores:
            with ExitStack() as stack:
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="company-")))
                (port,) = reserve_ports(stack, 1)
                provider = OidcProvider(folder, port)
                started_at = time.monotonic()
                settings = {
                    **provider.settings,
                    "VIRTUAL_KEYS": "true",
                    "DASHBOARD_URL": "http://127.0.0.1:{port}",
                    "ADMIN_API_KEY": ADMIN_KEY,
                    "FALLBACK_HAIKU": "",
                }
                if store == "postgres":
                    settings["REDIS_URL"] = ""
                dotenv = f"SIGN_IN_SECRET={SECRET}\n"
                fleet = stack.enter_context(running_fleet(INSTANCES, settings, table=TABLES, dotenv=dotenv))
                stack.callback(provider.program.stop)
                provider.start(f"{fleet.url}/dashboard/oidc/callback")
                name = f"oidc-provider, {store}"
                print(f"{name:24}  {'start of all parts':52} {time.monotonic() - started_at:6.1f} s", flush=True)
                run = _Run(fleet, provider, folder)
                for title, step in run.steps.items():
                    started_at = time.monotonic()
                    try:
                        result = step()
                    except AssertionError as error:
                        result = "FAILED"
                        self.problems.append(f"{name}: {title}: {error}")
                    seconds = time.monotonic() - started_at
                    print(f"{name:24}  {title:52} {seconds:6.1f} s  {result}", flush=True)


class _Run:
    """The steps with one provider and one store."""

    def __init__(self, fleet: Fleet, provider: OidcProvider, folder: Path) -> None:
        self._provider = provider
        first = fleet.instances[0]
        assert first.process is not None
        self._proxy = Proxy(fleet.url, first.process, first.log_file)
        self._machine = Machine(find_claude(), self._proxy, folder / "home")
        self._admin = httpx.Client(base_url=fleet.url, headers={"x-api-key": ADMIN_KEY}, trust_env=False)
        self.steps: Mapping[str, Callable[[], str]] = {
            "first sign-in with Claude Code, and a reply": self._sign_in_first,
        }

    def _sign_in_first(self) -> str:
        """Sign in with the real client, and work."""
        self._add("ann")
        self._machine.sign_in(ProviderBrowser(self._proxy, "ann"))
        self._work()
        (sign_in,) = self._list_sign_ins("ann@example.org")
        assert sign_in["provider_refresh_token"], sign_in
        (key,) = self._list_keys("ann@example.org")
        assert key["team"] == "build", key
        return "refresh token of the provider, team of the group"

    def _work(self) -> None:
        """Let Claude Code answer a prompt with its sign-in."""
        machine = self._machine
        run = run_claude(machine.claude, self._proxy.url, machine.work, PROMPT, "--model", "haiku", home=machine.home)
        assert run.text.startswith("still here"), run.text + run.stderr

    def _add(self, subject: str, name: str = "") -> None:
        self._provider.add(subject, ADDRESS.format(name=name or subject), "developers")

    def _list_sign_ins(self, name: str) -> list[dict[str, Any]]:
        listed = self._admin.get("/admin/sign-ins").json()["data"]
        return [sign_in for sign_in in listed if sign_in["name"] == name]

    def _list_keys(self, name: str) -> list[dict[str, Any]]:
        return [key for key in self._admin.get("/admin/keys").json()["data"] if key["name"] == name]
