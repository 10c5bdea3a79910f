"""A person's machine with Claude Code, which signs in at the proxy of a company."""

import json
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from aiohttp import web
from aiohttp.typedefs import Handler

from tests.e2e.claude import environment
from tests.e2e.terminal import introduce
from tests.support.fakes.oidc import FakeProvider, running_provider
from tests.support.fakes.openai_chat import new_openai
from tests.support.server_process import Proxy, running_proxy
from tests.support.sign_in import Browser, list_sign_in_settings
from tests.support.waiting import WAIT_SECONDS, wait_for_async

ADMIN_KEY = "admin-canary0123456789abcdef01234567"
EVERYBODY = '[sign_in.groups."*"]\nteam = "build"\n'


class Machine:
    """A person's machine, with Claude Code that knows the address of the company."""

    def __init__(self, claude: Path, proxy: Proxy, home: Path) -> None:
        self.claude = claude
        self.proxy = proxy
        self.home = home
        self.work = home / "work"
        for folder in (self.home / ".claude", self.work):
            folder.mkdir(parents=True)
        force = {"forceLoginMethod": "gateway", "forceLoginGatewayUrl": proxy.url}
        (home / ".claude" / "settings.json").write_text(json.dumps(force))
        introduce(home, self.work)
        self.admin = proxy.client(headers={"x-api-key": ADMIN_KEY})

    def sign_in(self, browser: Browser | None = None, *, is_accepted: bool = True) -> list[dict[str, Any]]:
        """Run `claude auth login`, answer its questions, confirm its code in a browser, and return what it shows.

        `browser`: None: one for a provider that asks nothing.
        """
        browser = browser or Browser(self.proxy)
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
                page = browser.approve(code)
                assert page.status_code == (200 if is_accepted else 403), page.text
        process.stdin.close()
        assert (process.wait(WAIT_SECONDS) == 0) is is_accepted, shown
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


class FakeCompanyMachine(Machine):
    """A machine of a company whose identity provider is a fake."""

    def __init__(self, claude: Path, proxy: Proxy, provider: FakeProvider, home: Path) -> None:
        super().__init__(claude, proxy, home)
        self.provider = provider


class TwoPartReply:
    """A provider that sends the first half of the reply to one prompt, and the rest when `may_end` is set."""

    PROMPT: ClassVar = "Answer in two parts"

    def __init__(self, first: str = "first ", second: str = "second") -> None:
        self.is_streaming, self.may_end = threading.Event(), threading.Event()
        self.application = new_openai()
        self.application.middlewares.append(self._pause)
        self._parts = first, second

    @web.middleware
    async def _pause(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        body = await request.read()
        is_concerned = self.PROMPT.encode() in body and b'"tools"' in body and not self.may_end.is_set()
        if not is_concerned:
            return await handler(request)
        first, second = self._parts
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(_encode_chunk({"role": "assistant", "content": first}))
        self.is_streaming.set()
        await wait_for_async(self.may_end.is_set)
        await response.write(_encode_chunk({"content": second}) + _encode_chunk({}, "stop") + b"data: [DONE]\n\n")
        return response


def _encode_chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4.1", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@contextmanager
def new_machine(
    claude: Path, directory: Path, settings: Mapping[str, str], tables: str = EVERYBODY
) -> Iterator[FakeCompanyMachine]:
    """Start a proxy and the identity provider of a company. `tables`: the configuration file."""
    server = directory / "server"
    server.mkdir()
    (server / "anthropic-proxy.toml").write_text(tables)
    with running_provider() as provider:
        provider.offers_refresh = True
        own = {
            **list_sign_in_settings(provider),
            "ADMIN_API_KEY": ADMIN_KEY,
            "DATABASE_URL": f"sqlite:///{server}/ledger.sqlite3",
        }
        with running_proxy(server, {**own, **settings}) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            yield FakeCompanyMachine(claude, proxy, provider, directory / "home")
            assert provider.problems == []
            assert "Traceback" not in proxy.log
