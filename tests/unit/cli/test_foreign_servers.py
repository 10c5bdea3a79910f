"""Commands that show what a server says: it cannot obey a terminal, is short, and each other reply is a clear error."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import run_command

CONTROLS = (
    "\x1b]52;c;aGk=\x07"  # the clipboard
    "\x1b[2J\x1b[H\x1b[8mx"  # clears, hides
    "\x9b2J\x9d52;c;aGk=\x9c"  # the same in one byte of Latin-1
    "\u202egnp\u2066"  # reverses the direction
    "\r✓ Signed in\n✓ Signed in at https://example.org."
)
HOSTILE = {"controls": CONTROLS, "large": "x" * 100_000}
"""Texts that would change a terminal, or fill it."""
MAX_SHOWN = 30_000
Answer = Callable[[str], Any]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    answers: Mapping[str, Any]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        found = self.server.answers.get(self.path.partition("?")[0], (404, {}))
        status, value = found if isinstance(found, tuple) else (200, found)
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, *_: object) -> None: ...


class Proxy:
    """A proxy of a company that says what a test wants."""

    def __init__(self, server: _Server) -> None:
        self.url = url = f"http://127.0.0.1:{server.server_port}"
        self.device: dict[str, Any] = {
            "device_code": "d",
            "user_code": "ABCD-EFGH",
            "verification_uri": f"{url}/device",
            "expires_in": 600,
            "interval": 0,
        }
        self.tokens: dict[str, Any] = {"access_token": "a", "refresh_token": "r", "expires_in": 3600}
        self.key: dict[str, Any] = {"id": "key_1", "name": "ci", "status": "active", "spending": []}
        self.answers: dict[str, Any] = {
            "/.well-known/oauth-authorization-server": {
                "device_authorization_endpoint": f"{url}/begin",
                "token_endpoint": f"{url}/token",
                "revocation_endpoint": f"{url}/revoke",
            },
            "/begin": self.device,
            "/token": self.tokens,
            "/revoke": {},
            "/admin/keys": {"data": [self.key]},
            "/admin/keys/ci": self.key,
            "/admin/keys/ci/rotate": self.key,
            "/admin/keys/ci/revoke": self.key,
        }
        server.answers = self.answers


@pytest.fixture(scope="module")
def server() -> Iterator[_Server]:
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def home(server: _Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a person who has signed in, which takes a second."""
    folder = tmp_path_factory.mktemp("home")
    assert run(folder, "login", Proxy(server).url)[0] == 0
    return folder


@pytest.fixture
def proxy(server: _Server) -> Proxy:
    return Proxy(server)


@pytest.fixture
def signed_in(home: Path, tmp_path: Path) -> Path:
    return shutil.copytree(home, tmp_path, dirs_exist_ok=True)


@contextmanager
def running() -> Iterator[_Server]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.answers = {}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def shorten(value: object) -> str:
    return ascii(value)[:20]


def run(folder: Path, *words: str) -> tuple[int, str]:
    """Run a command, require that nothing it writes can change a terminal, and return its status and output."""
    done = run_command(*words, directory=folder, settings={})
    shown = done.stdout + done.stderr
    assert "Traceback" not in shown
    assert [each for each in shown if not (each.isprintable() or each in "\n\t")] == []
    assert len(shown) < MAX_SHOWN
    assert "\n✓ Signed in at https://example.org." not in shown
    return done.returncode, shown


TEXTS_OF_A_SIGN_IN = ("user_code", "verification_uri", "verification_uri_complete", "login_notice", "device_code")


@pytest.mark.parametrize("field", TEXTS_OF_A_SIGN_IN)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_sign_in_shows_no_text_that_a_terminal_obeys(proxy: Proxy, tmp_path: Path, field: str, text: str) -> None:
    proxy.device[field] = proxy.url + text if field.startswith("verification") else text
    run(tmp_path, "login", proxy.url)


@pytest.mark.parametrize("path", ["/.well-known/oauth-authorization-server", "/begin", "/token"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_an_error_of_a_sign_in_shows_no_text_that_a_terminal_obeys(
    proxy: Proxy, tmp_path: Path, path: str, text: str
) -> None:
    for body in (
        {"error": text, "error_description": text},
        {"error": "denied", "error_description": text},
        {"type": "error", "error": {"type": "x", "message": text}},
    ):
        proxy.answers[path] = (400, body)
        assert run(tmp_path, "login", proxy.url)[0] == 2


NUMBERS = (1e300, -1, "5", None, [], True, float("nan"), 10**400)


@pytest.mark.parametrize("field", ["interval", "expires_in"])
@pytest.mark.parametrize("number", NUMBERS, ids=shorten)
def test_a_time_that_no_clock_has_is_an_invalid_reply(proxy: Proxy, tmp_path: Path, field: str, number: Any) -> None:
    proxy.device[field] = number
    status, shown = run(tmp_path, "login", proxy.url)
    assert status == 2
    assert shown.startswith(f"✕ {proxy.url} does not sign in: Its reply is not valid: ")
    del proxy.device[field]
    proxy.device["interval"] = 0
    proxy.tokens["expires_in"] = number
    status, shown = run(tmp_path, "login", proxy.url)
    assert status == 2
    assert shown.splitlines()[-1].startswith(f"✕ {proxy.url} does not sign in: Its reply is not valid: ")


def test_a_time_is_refused_with_its_bound(proxy: Proxy, tmp_path: Path) -> None:
    proxy.device["interval"] = 1e300
    assert run(tmp_path, "login", proxy.url) == (
        2,
        f"✕ {proxy.url} does not sign in: Its reply is not valid: Expected `float` <= 3600.0 - at `$.interval`.\n",
    )


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'"x"', b"<html>", b"\xff\xfe", b"[" * 100_000, b"x" * 3_000_000], ids=shorten
)
@pytest.mark.parametrize("status", [200, 400])
def test_a_reply_of_another_form_is_an_error(proxy: Proxy, signed_in: Path, status: int, body: bytes) -> None:
    proxy.answers |= dict.fromkeys(proxy.answers, (status, body))
    for words in (("keys", "list"), ("keys", "show", "ci"), ("keys", "rotate", "ci"), ("login", proxy.url)):
        found, shown = run(signed_in, *words)
        assert (found, shown[:1]) == (2, "✕"), (words, shown)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (
            (503, {"error": "temporarily_unavailable", "error_description": "Try again in a moment."}),
            "Try again in a moment.",
        ),
        ((529, {"type": "error", "error": {"type": "overloaded_error", "message": "It is busy."}}), "It is busy."),
        ((502, b"<html>"), "It answered /token with HTTP 502."),
    ],
)
def test_a_failure_that_passes_ends_no_sign_in(
    proxy: Proxy, signed_in: Path, answer: tuple[int, object], cause: str
) -> None:
    """A command does not ask for another sign-in, and a new sign-in waits."""
    (file,) = signed_in.rglob("sign-in.json")
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "expires_at": 0.0, "token_endpoint": f"{proxy.url}/token"})
    )
    proxy.answers["/token"] = answer
    refused = f"✕ The sign-in at {proxy.url} cannot be refreshed at the moment: {cause}\n"
    assert run(signed_in, "keys", "list") == (2, refused)
    proxy.device |= {"expires_in": 1.5, "interval": 0}
    status, shown = run(signed_in, "login", proxy.url)
    assert (status, shown.splitlines()[-1]) == (
        2,
        f"✕ {proxy.url} does not sign in: Nobody has confirmed the code in time.",
    )


@pytest.mark.parametrize(
    "endpoint", ["javascript:alert(1)", "http://example.org/x", "https://h/\x1b[2J", "https://h/ x"], ids=shorten
)
@pytest.mark.parametrize("field", ["verification_uri", "device_authorization_endpoint", "token_endpoint"])
def test_an_address_that_is_not_safe_is_neither_shown_as_a_link_nor_called(
    proxy: Proxy, tmp_path: Path, field: str, endpoint: str
) -> None:
    place = "/begin" if field == "verification_uri" else "/.well-known/oauth-authorization-server"
    proxy.answers[place][field] = endpoint
    status, shown = run(tmp_path, "login", proxy.url)
    assert status == 2
    assert f"Open {endpoint[:8]}" not in shown
    assert shown.splitlines()[-1].startswith(f"✕ {proxy.url} does not sign in: It names the address ")


FIELDS_OF_A_KEY = ("id", "name", "owner", "team", "creator", "status_reason", "problem", "partial_key_hint", "models")


@pytest.mark.parametrize("field", FIELDS_OF_A_KEY)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_keys_of_another_proxy_show_no_text_that_a_terminal_obeys(
    proxy: Proxy, signed_in: Path, field: str, text: str
) -> None:
    proxy.key[field] = [text] if field == "models" else text
    proxy.key["key"] = text if field == "name" else "sk-ap-0"
    for words in (("list",), ("show", "ci"), ("rotate", "ci"), ("revoke", "ci"), ("change", "ci", "--team", "a")):
        run(signed_in, "keys", *words)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("created_at", "yesterday"),
        ("created_at", 1e300),
        ("expires_at", "9999-99-99T00:00:00Z"),
        ("status", "great"),
        ("name", None),
        ("models", "claude-*"),
        ("budgets", [{"amount": "x", "unit": "usd", "period": "day"}]),
        ("budgets", [{"amount": 1, "unit": "gold", "period": "day"}]),
        ("requests_per_minute", 1e300),
        ("spending", [{"amount": 1, "unit": "usd", "period": "day", "used": 1e300}]),
        ("spending", [{"amount": 1, "unit": "usd", "period": "day"}]),
        ("spending", 5),
    ],
)
def test_a_key_of_another_form_is_an_invalid_reply(proxy: Proxy, signed_in: Path, field: str, value: Any) -> None:
    proxy.key[field] = value
    status, shown = run(signed_in, "keys", "show", "ci")
    assert status == 2
    assert shown.startswith(f"✕ {proxy.url}: Its reply is not valid: "), shown


HEALTH = {"status": "ok", "version": "0.1.0", "started_at": "2026-11-20T10:00:00.000Z"}


@pytest.mark.parametrize("field", ["version", "started_at", "ledger"])
@pytest.mark.parametrize(
    "value", [*HOSTILE.values(), 1e300, "9999-12-31T23:59:59Z", {"condition": "\x1b[2J"}], ids=shorten
)
def test_another_program_on_the_port_shows_no_text_that_a_terminal_obeys(
    tmp_path: Path, field: str, value: Any
) -> None:
    with running() as server:
        recent = {"finished": [1, {"receipt": 2}]}
        server.answers = {"/health": {**HEALTH, field: value}, "/api/requests/recent": recent}
        for words in (("health",), ("statusline",), ("serve",)):
            done = run_command(*words, directory=tmp_path, settings={"PORT": str(server.server_port)}, stdin="{}")
            shown = done.stdout + done.stderr
            assert "Traceback" not in shown
            assert [each for each in shown if not (each.isprintable() or each in "\n\t")] == []
            assert len(shown) < MAX_SHOWN


EVENTS = (
    {"type": 5},
    {"type": "content_block_delta", "delta": 5},
    {"type": "content_block_delta", "delta": {"text": 5}},
    {"type": "message_start", "message": []},
    {"type": "message_start", "message": {"usage": {"input_tokens": "x"}}},
    {"type": "error"},
    {"type": "error", "error": "x"},
    [],
    5,
)


@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_a_reply_of_another_program_is_an_error(tmp_path: Path, event: Any) -> None:
    with running() as server:
        stream = b"data: " + json.dumps(event).encode() + b"\n\n"
        server.answers = {"/health": HEALTH, "/v1/messages": stream, "/api/requests/live": b"event: x\n" + stream}
        settings = {"PORT": str(server.server_port), "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.server_port}"}
        for words in (("ask", "hello"), ("ask", "hello", "--json"), ("logs", "--no-follow")):
            done = run_command(*words, directory=tmp_path, settings=settings)
            assert (done.returncode, done.stderr[:1]) == (1, "✕"), done.stderr
            assert "Traceback" not in done.stderr


def test_an_error_of_a_proxy_is_one_line_that_looks_like_no_other_report(tmp_path: Path) -> None:
    with running() as server:
        error = {"type": "error", "error": {"type": "api_error", "message": f"No.\n✓ Done.\r\u2028{CONTROLS[:3]}"}}
        settings = {"PORT": str(server.server_port)}
        for answer in ((500, error), b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n"):
            server.answers = {"/health": HEALTH, "/v1/messages": answer}
            done = run_command("ask", "hello", directory=tmp_path, settings=settings)
            _, _, shown = done.stderr.partition("container.\n")  # after the remark that another proxy answers
            assert (done.returncode, shown) == (1, "✕ No.\\n✓ Done.\\r\\u2028\\x1b]5\n")
