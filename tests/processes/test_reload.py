"""Settings are read again while the server serves: no request is lost, and wrong ones change nothing."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.command_line import run_command
from tests.support.event_grammar import check_bytes
from tests.support.fakes.openai_chat.server import KEY
from tests.support.fakes.server import Running
from tests.support.paths import ROOT
from tests.support.platform_marks import HAS_SIGHUP, NO_SIGHUP
from tests.support.process_checks import MESSAGES, ask, events_of, port_of, reload, serve
from tests.support.raw_http import Answer, exchange, post, read_answer
from tests.support.server_process import Proxy, ending, hold_port, running_proxy
from tests.support.waiting import WAIT_SECONDS, reporting_log, wait_for

RELOADS, REQUESTS_A_SECOND = 20, 50


class Configured:
    """A server with its settings in a `.env` file."""

    def __init__(self, directory: Path, openai: Running) -> None:
        self.file = directory / ".env"
        self._openai = openai

    def write(self, **settings: str) -> None:
        """Write the file as people's editors do: a new one in place of the old one."""
        given = {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": f"{self._openai.url}/v1",
            "PREFERRED_PROVIDER": "openai",
            **settings,
        }
        fresh = self.file.with_suffix(".new")
        fresh.write_text("".join(f"{name}={value}\n" for name, value in given.items() if value))
        os.replace(fresh, self.file)


@pytest.fixture
def configured(tmp_path: Path, openai: Running) -> Configured:
    configured = Configured(tmp_path, openai)
    configured.write()
    return configured


def model_of(proxy: Proxy, openai: Running) -> str:
    assert proxy.client().post(MESSAGES, json=ask("Say exactly: x")).status_code == 200
    return str(openai.journal.exchanges[-1].body["model"])


def test_new_requests_go_by_new_settings(configured: Configured, openai: Running, tmp_path: Path) -> None:
    with running_proxy(tmp_path, {}) as proxy:
        assert model_of(proxy, openai) == "gpt-4.1"
        configured.write(BIG_MODEL="gpt-4o", PROXY_API_KEY="first-key-123456", ALLOWED_HOSTS="proxy.example")
        line = reload(proxy)
        assert line == "Settings reloaded: BIG_MODEL, PROXY_API_KEY, ALLOWED_HOSTS changed."
        assert "first-key-123456" not in proxy.log
        client = proxy.client()
        assert client.post(MESSAGES, json=ask("Say exactly: x")).status_code == 401
        configured.write(BIG_MODEL="gpt-4o", PROXY_API_KEY="")
        reload(proxy)
        assert model_of(proxy, openai) == "gpt-4o"
        assert "nothing changed" in reload(proxy)


def test_a_connection_that_is_kept_goes_by_new_settings(configured: Configured, tmp_path: Path) -> None:
    with running_proxy(tmp_path, {}) as proxy, proxy.client() as client:
        statuses = []
        for key in ("", "first-key-123456", ""):
            configured.write(PROXY_API_KEY=key)
            reload(proxy)
            statuses += [client.post(MESSAGES, json=ask("Say exactly: x")).status_code for _ in range(3)]
    assert statuses == [200, 200, 200, 401, 401, 401, 200, 200, 200]


def test_reloads_that_change_the_log_leave_no_threads_behind(configured: Configured, tmp_path: Path) -> None:
    with running_proxy(tmp_path, {}) as proxy:
        threads = Path(f"/proc/{proxy.process.pid}/task")
        for number in range(8):
            configured.write(LOG_FORMAT=("json", "plain")[number % 2])
            reload(proxy)
            if number == 1:
                before = len(list(threads.iterdir()))
        assert len(list(threads.iterdir())) <= before + 2, "a worker thread or two of the event loop's may come"
        *_, line, plain = proxy.log.splitlines()
        assert plain == "Settings reloaded: LOG_FORMAT changed."
        entry = json.loads(line)
        assert datetime.fromisoformat(entry.pop("time")).tzinfo is UTC
        assert entry == {"level": "info", "message": "Settings reloaded: LOG_FORMAT changed."}


def test_wrong_settings_change_nothing_and_are_named(configured: Configured, openai: Running, tmp_path: Path) -> None:
    with running_proxy(tmp_path, {"HOST": "127.0.0.1"}) as proxy:
        configured.write(BIG_MODEL="gpt-4o", UPSTREAM_TIMEOUT="soon")
        line = reload(proxy, "The current settings stay active")
        assert line.startswith('✕ The current settings stay active. UPSTREAM_TIMEOUT is "soon".')
        assert model_of(proxy, openai) == "gpt-4.1"
        configured.file.write_bytes(b"BIG_MODEL=\xff")
        assert ".env is not UTF-8" in reload(proxy, "The current settings stay active")
        assert model_of(proxy, openai) == "gpt-4.1"
        configured.write()
        nested, pipe = "nests tables or lists deeper than 50 levels.", "cannot be read: it is no regular file."
        config = tmp_path / "anthropic-proxy.toml"
        config.write_text("a=" + "[" * 100_000)
        assert reload(proxy, nested).endswith(f"anthropic-proxy.toml {nested}")
        config.unlink()
        configured.file.unlink()
        os.mkfifo(configured.file)
        assert reload(proxy, pipe).endswith(f".env {pipe}")
        assert model_of(proxy, openai) == "gpt-4.1"
        assert "Traceback" not in proxy.log


def test_the_environment_still_wins_and_an_address_waits_for_the_next_start(
    configured: Configured, openai: Running, tmp_path: Path
) -> None:
    with running_proxy(tmp_path, {"BIG_MODEL": "gpt-4o"}) as proxy:
        configured.write(BIG_MODEL="gpt-4.1-mini", PORT="9999", STOP_TIMEOUT="20", DRAIN_DELAY="1")
        assert reload(proxy) == "Settings reloaded: PORT, STOP_TIMEOUT, DRAIN_DELAY changed."
        text = "! PORT, STOP_TIMEOUT and DRAIN_DELAY will take effect at the next start."
        wait_for(lambda: text in proxy.log)
        assert model_of(proxy, openai) == "gpt-4o"


def test_virtual_keys_stay_required_until_the_next_start(configured: Configured, tmp_path: Path) -> None:
    database = {"DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}"}
    configured.write(VIRTUAL_KEYS="true", **database)
    with running_proxy(tmp_path, database) as proxy:
        assert proxy.client().post(MESSAGES, json=ask("Say exactly: x")).status_code == 401
        configured.write(VIRTUAL_KEYS="false", **database)
        assert reload(proxy) == "Settings reloaded: VIRTUAL_KEYS changed."
        assert proxy.client().post(MESSAGES, json=ask("Say exactly: x")).status_code == 401


def test_without_a_key_an_open_address_stays_guarded(configured: Configured, tmp_path: Path) -> None:
    configured.write(PROXY_API_KEY="first-key-123456")
    command = ("-m", "anthropic_proxy", "serve", "--host", "0.0.0.0")
    with running_proxy(tmp_path, {}, command) as proxy:
        configured.write()
        assert "PROXY_API_KEY" in reload(proxy, "The current settings stay active")
        assert proxy.client().post(MESSAGES, json=ask("Say exactly: x")).status_code == 401


class Held:
    """A provider that begins one reply and ends it when it may."""

    def __init__(self) -> None:
        self.heard, self.go_on = asyncio.Event(), asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + _frame("a"))
        self.heard.set()
        await self.go_on.wait()
        writer.write(_frame("b", "stop") + b"data: [DONE]\n\n")
        writer.close()


def _frame(text: str, ended: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": ended}
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
    return f"data: {json.dumps(chunk)}\n\n".encode()


async def test_a_running_reply_keeps_what_it_began_with(
    configured: Configured, openai: Running, tmp_path: Path
) -> None:
    """Also its connection, where the new settings make new ones."""
    held = Held()
    server = await asyncio.start_server(held.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    configured.write(OPENAI_BASE_URL=f"http://127.0.0.1:{port}/v1")
    with running_proxy(tmp_path, {}) as proxy:
        request = post(MESSAGES, ask("Say something", stream=True), {"Connection": "close"})
        asking = asyncio.create_task(exchange(port_of(proxy), request))
        await held.heard.wait()
        configured.write(UPSTREAM_CONNECT_TIMEOUT="7", BIG_MODEL="gpt-4o")
        await asyncio.to_thread(reload, proxy)
        assert await asyncio.to_thread(model_of, proxy, openai) == "gpt-4o"
        assert not asking.done()
        held.go_on.set()
        answer = read_answer(await asking)
    server.close()
    assert events_of(answer)[-1] == "message_stop"
    assert check_bytes(answer.body) == []


@pytest.mark.parametrize("workers", [1, 2])
async def test_20_reloads_under_up_to_50_requests_a_second_cost_none(
    configured: Configured, tmp_path: Path, workers: int
) -> None:
    answers: list[Answer] = []
    amid = 0
    """Number of requests that began while settings were being read."""
    reloading = False
    free = asyncio.Semaphore(20)  # on a busy machine the requests become fewer: they must not pile up

    async def load(group: asyncio.TaskGroup, proxy: Proxy) -> None:
        nonlocal amid
        for number in itertools.count():
            await free.acquire()
            group.create_task(one(proxy, stream=bool(number % 2)))
            amid += reloading
            await asyncio.sleep(1 / REQUESTS_A_SECOND)

    async def one(proxy: Proxy, stream: bool) -> None:
        request = post(MESSAGES, ask("Count to 20", stream=stream), {"Connection": "close"})
        answers.append(read_answer(await exchange(port_of(proxy), request)))
        free.release()

    with running_proxy(tmp_path, {}, serve(workers)) as proxy:
        async with asyncio.TaskGroup() as group:
            loading = group.create_task(load(group, proxy))
            for number in range(RELOADS):
                configured.write(
                    BIG_MODEL=("gpt-4o", "gpt-4.1")[number % 2], UPSTREAM_CONNECT_TIMEOUT=str(600 + number)
                )
                reloading = True
                await asyncio.to_thread(reload, proxy)
                reloading = False
            loading.cancel()
        assert proxy.log.count("Settings reloaded") == RELOADS
        assert "Traceback" not in proxy.log
    assert amid
    assert [answer for answer in answers if (answer.status, answer.whole) != (200, True)] == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_watched_file_is_read_when_it_changes(
    configured: Configured, openai: Running, tmp_path: Path, workers: int
) -> None:
    with running_proxy(tmp_path, {}, (*serve(workers), "--watch-config")) as proxy:
        configured.write(BIG_MODEL="gpt-4o")
        wait_for(lambda: "Settings reloaded: BIG_MODEL changed." in proxy.log)
        wait_for(lambda: model_of(proxy, openai) == "gpt-4o")


_CHANGE_MODEL = """
import json, os, pathlib, time, urllib.request
pathlib.Path(".env").write_text("OPENAI_API_KEY=sk-test-0123456789abcdef\\nBIG_MODEL=gpt-4o\\n")
request = urllib.request.Request(os.environ["ANTHROPIC_BASE_URL"] + "/v1/models/claude-opus")
while "gpt-4o" not in (name := json.load(urllib.request.urlopen(request))["display_name"]):
    time.sleep(0.1)
print(name)
"""


def test_the_proxy_of_one_session_uses_changed_settings(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OPENAI_API_KEY=sk-test-0123456789abcdef\nBIG_MODEL=gpt-4.1\n")
    ended = run_command("run", "--", sys.executable, "-c", _CHANGE_MODEL, directory=tmp_path, settings={})
    assert (ended.returncode, ended.stdout) == (0, "claude-opus → openai/gpt-4o\n")


def test_a_key_that_was_refused_rests_on(configured: Configured, openai: Running, tmp_path: Path) -> None:
    keys = f"sk-refused-0123456789,{KEY}"
    configured.write(OPENAI_API_KEY=keys)
    with running_proxy(tmp_path, {}) as proxy:

        def statuses() -> list[int]:
            before = len(openai.journal.exchanges)
            model_of(proxy, openai)
            return [exchange.status for exchange in openai.journal.exchanges[before:]]

        assert statuses() == [401, 200]
        configured.write(OPENAI_API_KEY=keys, SMALL_MODEL="gpt-4o")
        reload(proxy)
        assert [statuses(), statuses()] == [[200], [200]]


@contextmanager
def starting(directory: Path, *words: str) -> Iterator[Proxy]:
    """Yield a server that has prepared its signals and waits there, long before it serves, until `go_on` is called."""
    if not HAS_SIGHUP:
        pytest.skip(NO_SIGHUP)
    (directory / "sitecustomize.py").write_text(_HELD_START.format(folder=str(directory)))
    own = {"PATH": "", "PYTHONPATH": os.pathsep.join((str(directory), str(ROOT)))}
    with hold_port() as port, (directory / "early.log").open("wb") as log:
        command = [sys.executable, "-m", "anthropic_proxy", "serve", "--port", str(port), *words]
        process = subprocess.Popen(command, cwd=directory, env=own, stdout=log, stderr=log)
        with ending(process), reporting_log(process, directory / "early.log"):
            wait_for((directory / "held").exists)
            yield Proxy(f"http://127.0.0.1:{port}", process, directory / "early.log")


def go_on(directory: Path) -> None:
    (directory / "go on").touch()


_HELD_START = """
import pathlib
import sys
import time

FOLDER = pathlib.Path({folder!r})

def hold(event, arguments):
    if event == "import" and arguments[0] == "anthropic_proxy.cli":
        (FOLDER / "held").touch()
        while not (FOLDER / "go on").exists():
            time.sleep(0.01)

sys.addaudithook(hold)
"""
"""The command line is imported after the signals are prepared."""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_settings_that_change_while_it_starts_are_read_again(
    configured: Configured, tmp_path: Path, workers: str
) -> None:
    with starting(tmp_path, "--workers", workers) as proxy:
        proxy.process.send_signal(signal.SIGHUP)
        go_on(tmp_path)
        wait_for(lambda: "Settings reloaded" in proxy.log)
        assert proxy.process.poll() is None


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_while_it_starts_ends_it_without_a_word(
    configured: Configured, tmp_path: Path, workers: str, sign: int
) -> None:
    with starting(tmp_path, "--workers", workers) as proxy:
        proxy.process.send_signal(sign)
        assert proxy.process.wait(WAIT_SECONDS) == 0
        assert proxy.log == ""
