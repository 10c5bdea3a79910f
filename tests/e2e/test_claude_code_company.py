"""Claude Code signs in at the proxy as at the gateway of a company, and works with the sign-in."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.claude import environment, run_claude
from tests.support.fakes.anthropic import KEY as ANTHROPIC_KEY
from tests.support.fakes.anthropic import new_anthropic
from tests.support.fakes.oidc import FakeProvider, running_provider
from tests.support.fakes.openai_chat import KEY as OPENAI_KEY
from tests.support.fakes.openai_chat import new_openai
from tests.support.fakes.server import serving_strictly
from tests.support.server_process import Proxy, running_proxy
from tests.support.sign_in import Browser, list_sign_in_settings
from tests.support.waiting import WAIT_SECONDS, wait_for

ADMIN_KEY = "admin-canary0123456789abcdef01234567"
EMAIL = "ann@example.com"
PROMPT = "Say exactly: still here"


class Machine:
    """A person's machine, with Claude Code that knows the address of the company."""

    def __init__(self, claude: Path, proxy: Proxy, provider: FakeProvider, home: Path) -> None:
        self.claude = claude
        self.proxy = proxy
        self.provider = provider
        self.home = home
        self.work = home / "work"
        for folder in (self.home / ".claude", self.work):
            folder.mkdir(parents=True)
        force = {"forceLoginMethod": "gateway", "forceLoginGatewayUrl": proxy.url}
        (home / ".claude" / "settings.json").write_text(json.dumps(force))
        (home / ".claude.json").write_text(json.dumps({"hasCompletedOnboarding": True, "theme": "dark"}))
        self.admin = proxy.client(headers={"x-api-key": ADMIN_KEY})

    def sign_in(self) -> list[dict[str, Any]]:
        """Run `claude auth login`, answer its questions, confirm its code in a browser, and return what it shows."""
        shown = []
        process = subprocess.Popen(
            [str(self.claude), "auth", "login", "--gateway-json"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.work,
            env=environment(self.proxy.url, self.home),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            message = json.loads(line)
            shown.append(message)
            if message["state"] in ("url_input", "trust_prompt", "confirm_account"):
                answer = {"state": message["state"], "shown": message["shown"], "accept": True}
                process.stdin.write(json.dumps(answer) + "\n")
                process.stdin.flush()
            elif message["state"] == "polling":
                code = {"user_code": message["userCode"], "verification_uri_complete": message["browserUrl"]}
                page = Browser(self.proxy).approve(code)
                assert page.status_code == 200, page.text
        process.stdin.close()
        assert process.wait(WAIT_SECONDS) == 0, shown
        return shown

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        variables = environment(self.proxy.url, self.home)
        return subprocess.run(
            [str(self.claude), *words],
            cwd=self.work,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    def list_sign_ins(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.admin.get("/admin/sign-ins").json()["data"]
        return found

    @property
    def saved(self) -> dict[str, Any]:
        """The sign-in as Claude Code stores it. {}: there is none."""
        file = self.home / ".claude" / ".credentials.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        return found.get("enterpriseGateway", {})


@contextmanager
def new_machine(claude: Path, directory: Path, settings: Mapping[str, str]) -> Iterator[Machine]:
    """Start a proxy and the identity provider of a company."""
    server = directory / "server"
    server.mkdir()
    (server / "anthropic-proxy.toml").write_text('[sign_in.groups."*"]\nteam = "build"\n')
    with running_provider() as provider:
        provider.offers_refresh = True
        own = {
            **list_sign_in_settings(provider),
            "ADMIN_API_KEY": ADMIN_KEY,
            "DATABASE_URL": f"sqlite:///{server}/ledger.sqlite3",
        }
        with running_proxy(server, {**own, **settings}) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            yield Machine(claude, proxy, provider, directory / "home")
            assert provider.problems == []
            assert "Traceback" not in proxy.log


@pytest.fixture(params=["openai", "relay"])
def machine(claude: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    if request.param == "openai":
        with serving_strictly(new_openai()) as upstream:
            settings = {"OPENAI_API_KEY": OPENAI_KEY, "OPENAI_BASE_URL": f"{upstream.url}/v1"}
            with new_machine(claude, tmp_path, settings) as machine:
                yield machine
    else:
        with serving_strictly(new_anthropic()) as upstream:
            settings = {"ANTHROPIC_API_KEY": ANTHROPIC_KEY, "ANTHROPIC_UPSTREAM_URL": upstream.url}
            with new_machine(claude, tmp_path, {**settings, "PREFERRED_PROVIDER": "anthropic"}) as machine:
                yield machine


def test_a_person_signs_in_works_and_signs_out(machine: Machine) -> None:
    shown = machine.sign_in()
    assert [message["state"] for message in shown if message["state"] != "connecting"] == [
        *("url_input", "trust_prompt", "polling", "confirm_account", "saving", "done")
    ]
    (sign_in,) = machine.list_sign_ins()
    assert (sign_in["email"], sign_in["address"]) == (EMAIL, "127.0.0.1")
    assert sign_in["device"].startswith("claude-code/")
    assert (machine.saved["url"], machine.saved["email"]) == (machine.proxy.url, EMAIL)
    run = run_claude(
        machine.claude, machine.proxy.url, machine.work, PROMPT, "--model", "claude-sonnet-5-5", home=machine.home
    )
    assert run.text.startswith("still here"), run.stderr
    listed = machine.admin.get("/admin/keys").json()["data"]
    assert [(key["name"], key["team"]) for key in listed] == [(EMAIL, "build")]
    wait_for(lambda: EMAIL in machine.admin.get("/api/requests").text)
    token = machine.saved["jwt"]
    assert machine.run("auth", "logout").returncode == 0
    assert machine.saved == {}
    assert machine.list_sign_ins() == []
    client = machine.proxy.client(headers={"authorization": f"Bearer {token}"})
    wait_for(lambda: client.get("/v1/models").status_code == 401)


@pytest.fixture
def short(claude: Path, tmp_path: Path) -> Iterator[Machine]:
    """A machine whose tokens are refreshed before each request."""
    with serving_strictly(new_openai()) as upstream:
        settings = {"OPENAI_API_KEY": OPENAI_KEY, "OPENAI_BASE_URL": f"{upstream.url}/v1", "SIGN_IN_TOKEN_MINUTES": "5"}
        with new_machine(claude, tmp_path, settings) as machine:
            yield machine


def test_four_programs_refresh_one_sign_in_and_a_revoked_one_is_refused(short: Machine) -> None:
    short.sign_in()
    with ThreadPoolExecutor(4) as threads:
        started = [
            threads.submit(run_claude, short.claude, short.proxy.url, short.work, PROMPT, home=short.home)
            for _ in range(4)
        ]
        runs = [each.result() for each in started]
    assert [run.text[:10] for run in runs] == ["still here"] * 4, [run.stderr for run in runs]
    assert short.provider.refreshes >= 1
    assert short.saved["email"] == EMAIL
    assert len(short.list_sign_ins()) == 1
    # a provider that fails ends no work: the token is still valid
    short.provider.refresh_status = 500
    run = run_claude(short.claude, short.proxy.url, short.work, PROMPT, home=short.home)
    assert run.text.startswith("still here"), run.stderr
    short.provider.refresh_status = 200
    ended = short.admin.post(f"/admin/sign-ins/{EMAIL}/sign-out")
    assert ended.status_code == 200
    refused = run_claude(short.claude, short.proxy.url, short.work, PROMPT, home=short.home)
    assert refused.returncode == 1
    shown = refused.text or refused.stderr
    assert "/login" in shown or "claude auth login" in shown, shown
