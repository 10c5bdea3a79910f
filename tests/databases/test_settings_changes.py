"""A change of the settings reaches all servers with the same files, names the others, and is in the audit log."""

import json
import os
import re
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from anthropic_proxy.gateway.settings import Settings
from tests.support.command_line import run_command
from tests.support.ledger import ADMIN, DATABASE_VARIABLE, list_server_settings
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(DATABASE_VARIABLE not in os.environ, reason="engine: PostgreSQL")

EDIT = "/dashboard/settings/edit"
TABLES = """
[managed_settings."*"]
apiKeyHelper = "/opt/canary-of-a-program"

[[inspectors]]
name = "secrets"
type = "patterns"
detect = ["keys"]

[providers.box]
base_url = "http://127.0.0.1:1/canary-of-an-address"
"""


class Browser:
    """A session of the administrator, which all servers accept."""

    def __init__(self, proxy: Proxy) -> None:
        self._headers = {"sec-fetch-site": "same-origin"}
        reply = proxy.client().post("/dashboard/sign-in", data={"key": ADMIN, "next": ""}, headers=self._headers)
        self._headers["cookie"] = reply.headers["set-cookie"].partition(";")[0]

    def get(self, proxy: Proxy, path: str) -> str:
        reply = proxy.client().get(path, headers=self._headers)
        assert reply.status_code == 200
        return reply.text

    def write(self, proxy: Proxy, name: str, value: str) -> str:
        """Return the address of the page after the change."""
        page = self.get(proxy, f"{EDIT}?name={quote(name)}")
        fields = {"name": name, "value": value, "token": _read_field(page, "token")}
        preview = proxy.client().post(EDIT, data=fields, headers=self._headers).text
        reply = proxy.client().post(
            EDIT, data={**fields, "before": _read_field(preview, "before")}, headers=self._headers
        )
        assert reply.status_code == 303
        return str(reply.headers["location"])


def _read_field(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found is not None, page
    return found[1]


def read_log(directory: Path, settings: dict[str, str]) -> Sequence[dict[str, Any]]:
    """Return the changes of settings in the audit log, the oldest first."""
    done = run_command("keys", "audit", "--json", directory=directory, settings=settings)
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    return [entry for entry in reversed(entries) if entry["action"] == "change settings"]


def test_servers_with_the_same_files_follow_and_others_are_named(database: Settings, tmp_path: Path) -> None:
    settings = list_server_settings(database)
    shared, other = tmp_path / "shared", tmp_path / "other"
    for folder in (shared, other):
        folder.mkdir()
        (folder / ".env").write_text("BIG_MODEL=demo/demo\n")
    with ExitStack() as stack:
        first, second, third = (
            stack.enter_context(running_proxy(folder, settings)) for folder in (shared, shared, other)
        )
        browser = Browser(first)
        names = [f"{os.uname().nodename}:{proxy.url.rpartition(':')[2]}" for proxy in (first, second, third)]
        wait_for(lambda: browser.get(first, "/dashboard/settings").count("the same values"), lambda count: count == 2)
        place = browser.write(first, "BIG_MODEL", "demo/other")
        text = (
            f"Written to .env of {names[0]}. The previous file is .env.bak. New requests use the value on {names[0]} "
            f"and {names[1]}. {names[2]} has another value: change it there too."
        )
        for proxy in (first, second):  # a load balancer may send the next request to another server
            wait_for(lambda proxy=proxy: browser.get(proxy, place), lambda page: text in page)
        assert "other values: BIG_MODEL" in browser.get(second, "/dashboard/settings")
        warning = f"The change of BIG_MODEL has not reached {names[2]}: change the settings there too."
        wait_for(lambda: first.log.count(warning), lambda count: count == 1)
        changes = {"BIG_MODEL": {"before": "demo/demo", "after": "demo/other"}}
        expected = [("dashboard (admin key 1)", name, changes) for name in names[:2]]

        def read() -> Sequence[tuple[str, str, Any]]:
            return [(one["actor"], one["object"], one["changes"]) for one in read_log(shared, settings)]

        assert sorted(wait_for(read, lambda found: len(found) == 2)) == sorted(expected)
        place = browser.write(third, "BIG_MODEL", "demo/other")
        text = "New requests use the value on all 3 instances."
        wait_for(lambda: browser.get(second, place), lambda page: text in page)

        (shared / "anthropic-proxy.toml").write_text(TABLES)
        second.process.send_signal(signal.SIGHUP)
        found = wait_for(read, lambda found: len(found) == 5)[3:]
        assert sorted(name for _, name, _ in found) == sorted(names[:2])
        for actor, _, changes in found:
            assert actor == "file (anthropic-proxy.toml)"
            assert changes == {
                '[managed_settings."*"] apiKeyHelper': {"before": None, "after": "set"},
                "inspector secrets": {"before": None, "after": "set"},
                "providers.box": {"before": None, "after": "set"},
            }

        place = browser.write(first, "model of [auto_mode]", "demo/other")
        text = (
            f"Written to anthropic-proxy.toml of {names[0]}. The previous file is anthropic-proxy.toml.bak. New "
            f"requests use the value on {names[0]} and {names[1]}. {names[2]} has another value: change it there too."
        )
        for proxy in (first, second):
            wait_for(lambda proxy=proxy: browser.get(proxy, place), lambda page: text in page)
        assert (shared / "anthropic-proxy.toml.bak").read_text() == TABLES
        changes = {"model of [auto_mode]": {"before": None, "after": "demo/other"}}
        expected = [("dashboard (admin key 1)", name, changes) for name in names[:2]]
        assert sorted(wait_for(read, lambda found: len(found) == 7)[5:]) == sorted(expected)
