"""Which hosts outside get what, at the addresses that the product has by default: docs/guide/decision.md."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.fakes import openai_chat, openai_responses, search_services
from tests.support.fakes.oidc import running_provider
from tests.support.fakes.search_services import SearchStandIn, new_search_service
from tests.support.fakes.server import Exchange, RequestLog, Running, new_application, serving, serving_strictly
from tests.support.outside import Outside, running_outside
from tests.support.price_list import build_price_list
from tests.support.server_process import Proxy, ending, environment_of, running_proxy
from tests.support.sign_in import Device, list_sign_in_settings, sign_in_to_dashboard
from tests.support.waiting import WAIT_SECONDS, wait_for

ADMIN = "admin-0123456789"
PERSON = "quartz.person@example.com"
ADDRESS = "203.0.113.77"
DEVICE = "device-canary-99"
SESSION = "5e55ca9a-0000-4000-8000-00000000cafe"
PRIVATE = (PERSON, ADDRESS, DEVICE, SESSION, "cookie-canary", "team-canary")
"""What no host gets as it is."""
OPENAI = "api.openai.com"
PRICES = "raw.githubusercontent.com"
SEARCH_HOSTS = {"brave": "api.search.brave.com", "tavily": "api.tavily.com", "exa": "api.exa.ai"}
SEARCH_BODIES: dict[str, dict[str, Any]] = {
    "brave": {"q": "Oslo", "count": "10", "text_decorations": "false", "result_filter": "web"},
    "tavily": {"query": "Oslo", "max_results": 10},
    "exa": {"query": "Oslo", "numResults": 10, "contents": {"highlights": True}},
}
SEARCH_TABLE = """
[search]
service = "{service}"
api_key = {{ env = "THE_SEARCH_KEY" }}
"""
TABLES = """
[providers.inhouse]
base_url = "{inhouse}/v1"
api_key = {{ env = "INHOUSE_KEY" }}

[providers.inhouse.models]
"gpt-4.1" = {{}}

[[routes]]
name = "closed"
when.header = {{ x-data = "closed" }}
targets = ["inhouse/gpt-4.1"]
web = false
"""


@contextmanager
def running_company(
    folder: Path, applications: Mapping[str, web.Application], table: str = "", **settings: str
) -> Iterator[tuple[Proxy, Running, Outside]]:
    """Yield a proxy, a model server of the company, and the outside."""
    with (
        running_outside(folder, applications) as outside,
        serving_strictly(openai_chat.new_openai()) as inhouse,
    ):
        (folder / "anthropic-proxy.toml").write_text(TABLES.format(inhouse=inhouse.url) + table, encoding="utf-8")
        environment = {
            "INHOUSE_KEY": openai_chat.KEY,
            "VIRTUAL_KEYS": "true",
            "ADMIN_API_KEY": ADMIN,
            "TRUSTED_PROXIES": "127.0.0.0/8",
            "DATABASE_URL": f"sqlite:///{folder / 'ledger.sqlite3'}",
            **outside.settings,
            **settings,
        }
        with running_proxy(folder, environment) as proxy:
            yield proxy, inhouse, outside
            assert "Traceback" not in proxy.log
        assert [running.journal.violations() for running in outside.servers.values()] == [[] for _ in outside.servers]


def create_key(proxy: Proxy, name: str, **rules: Any) -> Callable[..., Any]:
    """Return a function that sends a request with a new key, and with all that a client may state about a person."""
    admin = proxy.client(headers={"x-api-key": ADMIN})
    created = admin.post("/admin/keys", json={"name": name, "owner": PERSON, "team": "team-canary", **rules})
    assert created.status_code == 200, created.text
    headers = {
        "x-api-key": created.json()["key"],
        "x-forwarded-for": ADDRESS,
        "forwarded": f"for={ADDRESS}",
        "x-real-ip": ADDRESS,
        "cookie": "a=cookie-canary",
    }
    client = proxy.client(headers=headers)

    def send(model: str, prompt: str, session: str = SESSION, headers: Mapping[str, str] = {}, **fields: Any) -> Any:
        user = json.dumps({"device_id": DEVICE, "account_uuid": "", "session_id": session})
        body = {
            "model": model,
            "max_tokens": 500,
            "metadata": {"user_id": user},
            "messages": [{"role": "user", "content": prompt}],
            **fields,
        }
        stated = {"x-claude-code-session-id": session, **headers}
        answer = client.post("/v1/messages", json=body, headers=stated)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return send


def list_private_texts(exchange: Exchange) -> list[str]:
    text = json.dumps([exchange.path, exchange.headers, exchange.body])
    return [private for private in PRIVATE if private in text]


def test_openai_gets_hashes_of_user_and_session_and_nobody_else_is_asked(tmp_path: Path) -> None:
    applications = {OPENAI: openai_responses.new_openai()}
    with running_company(tmp_path, applications, OPENAI_API_KEY=openai_responses.KEY) as (proxy, inhouse, outside):
        send = create_key(proxy, "laptop")
        for session in (SESSION, SESSION, "5e55ca9a-0000-4000-8000-0000000000ff"):
            send("openai/gpt-5", "Say exactly: hi", session)
        exchanges = outside.servers[OPENAI].journal.exchanges
        assert [exchange.path for exchange in exchanges] == ["/v1/responses"] * 3
        users = [exchange.body["safety_identifier"] for exchange in exchanges]
        assert users == [hashlib.sha256(DEVICE.encode()).hexdigest()] * 3
        first, second, other = (exchange.body["prompt_cache_key"] for exchange in exchanges)
        assert first == second != other
        assert re.fullmatch("[0-9a-f]{32}", first)
        assert [list_private_texts(exchange) for exchange in exchanges] == [[], [], []]
        send("inhouse/gpt-4.1", "Say exactly: hi")
        (exchange,) = inhouse.journal.exchanges
        assert {"safety_identifier", "prompt_cache_key", "user", "store"} & {*exchange.body} == set()
        assert list_private_texts(exchange) == []
        assert outside.hosts == {OPENAI}


@pytest.mark.parametrize("service", SEARCH_HOSTS)
def test_a_search_service_gets_the_query_alone_and_only_if_key_and_route_allow_it(service: str, tmp_path: Path) -> None:
    results = {"url": "https://cold.example/oslo", "title": "Oslo", "description": "Snow", "content": "Snow"}
    stand_in = SearchStandIn(service, [results])
    applications = {SEARCH_HOSTS[service]: new_search_service(stand_in)}
    settings = {"THE_SEARCH_KEY": search_services.KEY}
    with running_company(tmp_path, applications, SEARCH_TABLE.format(service=service), **settings) as parts:
        proxy, _, outside = parts
        tools = [{"type": "web_search_20250305", "name": "web_search"}]
        ask = ("inhouse/gpt-4.1", "Search the web for Oslo")
        free = create_key(proxy, "free")
        closed = create_key(proxy, "closed", providers=["inhouse"])
        named = create_key(proxy, "named", providers=["inhouse", service])
        free("inhouse/gpt-4.1", "Say exactly: hi", tools=tools)
        closed(*ask, tools=tools)
        free(*ask, tools=tools, headers={"x-data": "closed"})
        assert outside.targets == []
        for send in (free, named):
            found = [block["type"] for block in send(*ask, tools=tools)["content"]]
            assert found == ["server_tool_use", "web_search_tool_result", "text"]
        assert stand_in.requests == [SEARCH_BODIES[service]] * 2
        exchanges = outside.servers[SEARCH_HOSTS[service]].journal.exchanges
        assert [list_private_texts(exchange) for exchange in exchanges] == [[], []]
        assert outside.hosts == {SEARCH_HOSTS[service]}


@pytest.mark.slow  # the download begins ten seconds after the start
def test_the_list_of_prices_is_downloaded_with_its_setting_and_tells_nothing(tmp_path: Path) -> None:
    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        journal.close(journal.open(request, raw.decode()), "answered")
        return web.Response(body=build_price_list("2026-11-20", input_mtok=3), content_type="application/json")

    applications = {PRICES: new_application(answer, RequestLog())}
    with running_company(tmp_path, applications, "\n[price_list]\nupdate_days = 7\n") as (proxy, _, outside):
        wait_for(lambda: "Prices updated: " in proxy.log)
        (exchange,) = outside.servers[PRICES].journal.exchanges
        assert (exchange.method, exchange.body) == ("GET", "")
        assert {*exchange.headers} == {"host", "accept", "accept-encoding", "user-agent"}
        assert outside.hosts == {PRICES}


COMMANDS = (
    ("usage",),
    ("explain",),
    ("keys", "list"),
    ("keys", "sign-ins"),
    ("keys", "audit"),
    ("models",),
    ("config", "show"),
    ("doctor",),
    ("health",),
)
PAGES = ("", "/requests", "/sessions", "/costs", "/models", "/keys", "/settings")
TRACED = "import os, sys; os.execvp('strace', ['strace', *sys.argv[1:]])"
"""With -D, the traced program has the process id of strace."""


def trace(file: Path) -> Sequence[str]:
    return ("-f", "-D", "-e", "trace=connect", "-o", str(file), "--", sys.executable)


def find_addresses(file: Path) -> set[str]:
    """Return the addresses and ports of other machines, and those of name servers, of a trace."""
    text = file.read_text("utf-8")
    assert "connect(" in text or "exited with" in text, text
    found = re.findall(r'htons\((\d+)\), (?:sin_addr=inet_addr|.*inet_pton\(AF_INET6,)[ (]"([^"]+)"', text)
    return {f"{host} port {port}" for port, host in found if port == "53" or host not in ("127.0.0.1", "::1")}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="platform: strace is not installed")
def test_server_and_commands_contact_no_other_address(tmp_path: Path) -> None:
    server_trace, command_trace = tmp_path / "server", tmp_path / "command"
    command = ("-c", TRACED, *trace(server_trace), "-m", "anthropic_proxy", "serve")
    with running_provider() as provider, serving(openai_chat.new_openai()) as inhouse:
        tables = TABLES.format(inhouse=inhouse.url) + '\n[sign_in]\nadmins = ["platform"]\n'
        (tmp_path / "anthropic-proxy.toml").write_text(tables, encoding="utf-8")
        provider.user = {**provider.user, "groups": ["platform"]}
        settings = {
            **list_sign_in_settings(provider),
            "INHOUSE_KEY": openai_chat.KEY,
            "ADMIN_API_KEY": ADMIN,
            "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}",
        }
        with running_proxy(tmp_path, settings, command) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            port = proxy.url.rpartition(":")[2]
            own = {name: value.replace("{port}", port) for name, value in settings.items()} | {"PORT": port}
            device = Device(proxy)
            device.sign_in()
            body = {"model": "inhouse/gpt-4.1", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
            headers = {"authorization": f"Bearer {device.tokens['access_token']}"}
            assert device.client.post("/v1/messages", json=body, headers=headers).status_code == 200
            admin = proxy.client(headers={"x-api-key": ADMIN})
            wait_for(lambda: admin.get("/api/requests").json()["requests"])
            browser = sign_in_to_dashboard(proxy)
            assert {page: browser.get(f"/dashboard{page}").status_code for page in PAGES} == dict.fromkeys(PAGES, 200)
            environment = {**environment_of(tmp_path), **own}
            for words in COMMANDS:
                line = [sys.executable, "-c", TRACED, *trace(command_trace), "-m", "anthropic_proxy", *words]
                done = subprocess.run(
                    line, cwd=tmp_path, env=environment, capture_output=True, timeout=WAIT_SECONDS, check=False
                )
                assert done.returncode in (0, 1), (words, done.stderr)  # 1: the doctor has found something
                assert (words, find_addresses(command_trace)) == (words, set())
            follow_logs(environment, command_trace, tmp_path)
            assert find_addresses(command_trace) == set()
        assert find_addresses(server_trace) == set()
        assert provider.problems == []


def follow_logs(environment: Mapping[str, str], file: Path, folder: Path) -> None:
    """Let `logs` show a line, follow, and end by Ctrl+C."""
    line = [sys.executable, "-c", TRACED, *trace(file), "-m", "anthropic_proxy", "logs"]
    process = subprocess.Popen(line, cwd=folder, env=environment, stdout=subprocess.PIPE)
    with ending(process):
        assert process.stdout is not None
        assert b"/v1/messages 200" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.wait(WAIT_SECONDS)
