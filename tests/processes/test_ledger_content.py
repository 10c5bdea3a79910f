"""Texts of requests and replies in the ledger: stored, redacted, cut, shown and explained. None by default."""

import base64
import html
import json
import re
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from anthropic_proxy.console.ledger.receipt_queue import MAX_CONTENT_BYTES
from tests.support.command_line import run_command
from tests.support.fakes import anthropic
from tests.support.fakes.server import Running, serving
from tests.support.process_checks import MESSAGES, ask
from tests.support.secret_canaries import find_leaks, new_canary, secrets_in
from tests.support.server_process import Proxy, running_proxy
from tests.support.tls import NO_AUTHORITIES
from tests.support.waiting import WAIT_SECONDS, wait_for

MODELS = {"translated": "openai/gpt-4.1", "relayed": "anthropic/claude-sonnet-4-5"}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
"""One black pixel."""
MARKUP = '<img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    with serving(anthropic.new_anthropic()) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


@pytest.fixture(scope="module")
def stored(folder: Path, settings: dict[str, str], upstream: Running) -> dict[str, str]:
    """Return the settings of a proxy that stores texts."""
    return {
        **settings,
        "ANTHROPIC_API_KEY": anthropic.KEY,
        "ANTHROPIC_UPSTREAM_URL": upstream.url,
        "SEARCH_API_KEY": new_canary("team/+="),
        "DATABASE_URL": f"sqlite:///{folder / 'ledger.sqlite3'}",
        "LEDGER_CONTENT": "true",
    }


@pytest.fixture(scope="module")
def proxy(folder: Path, stored: dict[str, str]) -> Iterator[Proxy]:
    with running_proxy(folder, stored) as running:
        yield running


def send(proxy: Proxy, body: dict[str, Any]) -> tuple[str, httpx.Response]:
    """Send a request and return its id and the response. `Proxy.client` would report a key in a reply as a leak."""
    with httpx.Client(base_url=proxy.url, timeout=WAIT_SECONDS, trust_env=False, verify=NO_AUTHORITIES) as client:
        response = client.post(MESSAGES, json=body)
    return response.headers["request-id"], response


def read_texts(folder: Path, request_id: str) -> dict[str, tuple[int, bytes]]:
    """Return kind → size and text, as soon as the request is stored."""

    def is_stored() -> bool:
        with closing(sqlite3.connect(folder / "ledger.sqlite3")) as database:
            try:
                return bool(database.execute("SELECT 1 FROM requests WHERE id = ?", [request_id]).fetchall())
            except sqlite3.OperationalError:  # the tables do not exist yet
                return False

    wait_for(is_stored)
    with closing(sqlite3.connect(folder / "ledger.sqlite3")) as database:
        rows = database.execute("SELECT kind, size, data FROM contents WHERE request_id = ?", [request_id])
        return {kind: (size, zlib.decompress(data)) for kind, size, data in rows}


def count_texts(folder: Path, text: bytes) -> int:
    with closing(sqlite3.connect(folder / "ledger.sqlite3")) as database:
        rows = database.execute("SELECT data FROM contents WHERE kind = 'request'").fetchall()
    return sum(text in zlib.decompress(data) for (data,) in rows)


def read_text_of_stream(reply: str) -> str:
    events = [json.loads(frame.partition("data: ")[2]) for frame in reply.split("\n\n") if frame]
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    return "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", MODELS)
def test_request_and_reply_are_stored_as_the_client_sent_and_received_them(
    folder: Path, proxy: Proxy, path: str, stream: bool
) -> None:
    body = ask(
        "Say exactly: twelve words – é 日本 – that a stream carries in several pieces, one after another", stream=stream
    )
    request_id, response = send(proxy, {**body, "model": MODELS[path]})
    texts = read_texts(folder, request_id)
    assert texts["request"] == (len(response.request.content), response.request.content)
    size, reply = texts["reply"]
    assert size == len(response.content)
    if stream:
        assert read_text_of_stream(reply.decode()) == read_text_of_stream(response.text)
        assert reply.count(b"content_block_delta\n") == 1 < response.text.count("content_block_delta\n")
    else:
        assert reply == response.content


@pytest.mark.parametrize("path", MODELS)
def test_errors_are_stored_as_replies(folder: Path, proxy: Proxy, path: str) -> None:
    for text in ("Say exactly: x [fault:forbidden]", ""):
        request_id, response = send(proxy, {**ask(text), "model": MODELS[path]})
        assert response.status_code >= 400
        assert read_texts(folder, request_id)["reply"] == (len(response.content), response.content)


@pytest.mark.parametrize("path", MODELS)
def test_a_cancelled_stream_is_stored_up_to_its_end(folder: Path, proxy: Proxy, path: str) -> None:
    text = "Say exactly: begun and never ended, because the client leaves [fault:stall seconds=30]"
    body = {**ask(text, stream=True), "model": MODELS[path]}
    with (
        httpx.Client(base_url=proxy.url, timeout=WAIT_SECONDS, trust_env=False, verify=NO_AUTHORITIES) as client,
        client.stream("POST", MESSAGES, json=body) as response,
    ):
        received = next(chunk for chunk in response.iter_raw())
    texts = read_texts(folder, response.headers["request-id"])
    assert json.loads(texts["request"][1]) == body
    size, reply = texts["reply"]
    assert size >= len(received)
    assert reply.startswith(b"event: message_start\n")
    assert b"message_stop" not in reply


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_no_key_is_stored(folder: Path, proxy: Proxy, stored: dict[str, str], stream: bool) -> None:
    keys, ids = (*secrets_in(stored), new_canary("sk-ant-")), list[str]()
    for key in keys:
        tool = {"name": "read", "input_schema": {"type": "object", "description": f'Bearer {key[:11]}\\"{key}'}}
        request_id, response = send(proxy, ask(f"Say exactly: {key}", stream=stream, system=key, tools=[tool]))
        assert response.status_code == 200
        ids.append(request_id)
    for request_id in ids:
        texts = read_texts(folder, request_id)
        assert find_leaks(b"\n".join(text for _, text in texts.values()), keys) == []
        assert json.loads(texts["request"][1])["messages"][0]["content"].startswith("Say exactly: ")
    files = b"".join(file.read_bytes() for file in folder.glob("ledger.sqlite3*"))
    assert find_leaks(files, keys) == []


def test_a_page_shows_both_texts_as_text(folder: Path, proxy: Proxy) -> None:
    request_id, _ = send(proxy, ask(f"Say exactly: {MARKUP}"))
    read_texts(folder, request_id)
    page = proxy.client().get(f"/dashboard/requests/{request_id}").text
    assert "<img" not in page
    shown = [html.unescape(text) for text in re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)]
    assert [json.dumps(MARKUP)[1:-1] in text for text in shown[1:]] == [True, True], "request and reply as JSON"
    assert re.search(r'\{"role": "user", "content": \[text, \d+ characters\]\}', shown[0]), shown[0]
    talk = [html.unescape(text) for text in re.findall(r'<div class="prose">(.*?)</div>', page, re.DOTALL)]
    assert talk == [f"Say exactly: {MARKUP}", MARKUP]


def test_a_page_shows_the_images_of_a_request_by_addresses_of_its_own(folder: Path, proxy: Proxy) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    body = ask("")
    body["messages"] = [
        {
            "role": "user",
            "content": [{"type": "image", "source": source}, {"type": "text", "text": "Say exactly: seen"}],
        }
    ]
    request_id, _ = send(proxy, body)
    read_texts(folder, request_id)
    client = proxy.client()
    page = client.get(f"/dashboard/requests/{request_id}").text
    (address,) = re.findall(r'<img src="([^"]+)"', page)
    image = client.get(address)
    assert (image.status_code, image.content) == (200, base64.b64decode(PNG))
    assert {name: image.headers[name] for name in ("content-type", "content-security-policy", "cache-control")} == {
        "content-type": "image/png",
        "content-security-policy": "default-src 'none'; sandbox",
        "cache-control": "no-store",
    }
    for other in (f"{address[:-1]}1", f"{address[:-1]}x", "/dashboard/requests/req_none/images/0"):
        assert client.get(other).status_code == 404


def test_a_large_request_is_cut_and_not_translated_again(folder: Path, proxy: Proxy, stored: dict[str, str]) -> None:
    body = ask("Say exactly: done " + "x" * MAX_CONTENT_BYTES)
    request_id, response = send(proxy, body)
    size, text = read_texts(folder, request_id)["request"]
    assert (size, text) == (len(response.request.content), response.request.content[:MAX_CONTENT_BYTES])
    page = proxy.client().get(f"/dashboard/requests/{request_id}").text
    assert f"{size:,} bytes, the first 1,048,576 are stored, the first 20,000 characters are shown" in page
    assert "The request cannot be sent again: only the beginning of its text is stored." in page
    ended = run_command("explain", request_id, "--body", directory=folder, settings=stored)
    assert ended.stderr == (
        "✕ --body needs the complete text of the request. The ledger contains the first 1,048,576 of "
        f"{size:,} bytes of {request_id}. Explain a file with the request body:  anthropic-proxy explain FILE\n"
    )


def test_a_stored_request_is_translated_like_a_file(folder: Path, proxy: Proxy, stored: dict[str, str]) -> None:
    request_id, response = send(proxy, ask("Say exactly: explained", top_k=40))
    read_texts(folder, request_id)
    file = folder / "request.json"
    file.write_bytes(response.request.content)
    for options in (["--body"], ["--model", "anthropic/claude-haiku-4-5"], ["--body", "--json"]):
        runs = [
            run_command("explain", name, *options, directory=folder, settings=stored)
            for name in (request_id, file.name)
        ]
        assert [run.returncode for run in runs] == [0, 0], runs
        assert runs[0].stdout == runs[1].stdout.replace(file.name, request_id)
        assert "explained" in runs[0].stdout or "--model" in options


def test_a_stored_request_is_sent_again(folder: Path, proxy: Proxy, stored: dict[str, str]) -> None:
    request_id, _ = send(proxy, ask("Say exactly: sent twice"))
    read_texts(folder, request_id)
    page = proxy.client().get(f"/dashboard/requests/{request_id}").text
    assert f"anthropic-proxy replay {request_id}" in page
    settings = {**stored, "PORT": proxy.url.rpartition(":")[2]}
    for options, model in (([], "claude-sonnet-4-5"), (["--model", MODELS["relayed"]], MODELS["relayed"])):
        ended = run_command("replay", request_id, *options, directory=folder, settings=settings)
        assert (ended.returncode, ended.stdout) == (0, "sent twice\n"), ended.stderr
        assert ended.stderr.startswith(f"  {model} ")
    wait_for(lambda: count_texts(folder, b"Say exactly: sent twice") == 3)
    client = proxy.client()
    for rejected in (client.get("/v1/models/none"), client.post("/v1/messages", content=b"{")):
        read_texts(folder, rejected.headers["request-id"])
    ended = run_command("explain", "--last", directory=folder, settings=settings)
    assert (ended.returncode, ended.stdout.splitlines()[0]) == (0, f"  {MODELS['relayed']} → openai/gpt-4.1")
    ended = run_command("replay", "--last", directory=folder, settings=settings)
    assert (ended.returncode, ended.stdout) == (0, "sent twice\n"), ended.stderr
    send(proxy, ask("Say exactly: sent just now"))  # not stored yet
    for word, reply in (("--last", "sent just now\n"), ("3", "sent twice\n")):
        ended = run_command("replay", word, directory=folder, settings=settings)
        assert (ended.returncode, ended.stdout) == (0, reply), ended.stderr
    for words, message in (
        (
            ("replay",),
            "REQUEST is missing. Use the id of a stored request, or --last. More:  anthropic-proxy replay --help",
        ),
        (("replay", request_id, "--last"), f"--last and {request_id} exclude each other. Use one of them."),
    ):
        ended = run_command(*words, directory=folder, settings=settings)
        assert (ended.returncode, ended.stderr) == (2, f"✕ {message}\n")


def read_files(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text("utf-8") for file in folder.iterdir()}


def test_an_exchange_is_reported_without_its_texts(folder: Path, proxy: Proxy, stored: dict[str, str]) -> None:
    tool = {"name": "acme_find", "description": "Finds.", "input_schema": {"type": "object", "properties": {"who": {}}}}
    request_id, _ = send(proxy, {**ask("Say exactly: word of Ann", stream=True), "tools": [tool]})
    read_texts(folder, request_id)
    settings = {**stored, "PORT": proxy.url.rpartition(":")[2]}
    ended = run_command("report", "LAST", directory=folder, settings=settings, stdin="n\n")
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "Nothing was written."), ended.stderr
    target = folder / f"report-{request_id}"
    assert not target.exists()

    ended = run_command("report", "last", "--yes", directory=folder, settings=settings)
    assert ended.returncode == 0, ended.stderr
    files = read_files(target)
    assert sorted(files) == ["case.toml", "expected_events.sse", "expected_upstream_request.json", "request.json"]
    assert (target.stat().st_mode & 0o777, {file.stat().st_mode & 0o777 for file in target.iterdir()}) == (
        0o700,
        {0o600},
    )
    for text in ("Ann", "acme", "who", "Finds", "127.0.0.1", request_id):
        assert text not in "".join(files.values()), text
    assert find_leaks("".join(files.values()), secrets_in(stored)) == []
    request, sent = json.loads(files["request.json"]), json.loads(files["expected_upstream_request.json"])
    assert request["messages"] == [{"role": "user", "content": "x" * len("Say exactly: word of Ann")}]
    assert (sent["url"], sent["body"]["tools"][0]["function"]["name"]) == (
        "http://upstream.invalid/chat/completions",
        request["tools"][0]["name"],
    )

    ended = run_command("replay", "--check", str(target), directory=folder, settings=settings)
    assert (ended.returncode, ended.stdout) == (
        0,
        "200, stream, end_turn\n  reply in the case: 200 stream; text; end_turn\n"
        "  ✓ this version sends the same request to the provider\n",
    )
    sent["body"]["tools"][0]["function"]["name"] = "other"
    (target / "expected_upstream_request.json").write_text(json.dumps(sent), "utf-8")
    ended = run_command("replay", "--check", str(target), directory=folder, settings=settings)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (
        1,
        '  ✕ body.tools.0.function.name: "other" in the case, "xxxx_xxx1" here',
    )
    ended = run_command("report", request_id, "--yes", directory=folder, settings=settings)
    assert (ended.returncode, ended.stderr) == (
        2,
        f"✕ --to: report-{request_id} cannot be written: it exists.\n",
    )


def test_texts_and_addresses_are_reported_by_choice(folder: Path, proxy: Proxy, stored: dict[str, str]) -> None:
    key = stored["SEARCH_API_KEY"]
    settings = {**stored, "PORT": proxy.url.rpartition(":")[2]}
    request_id, _ = send(proxy, ask(f"Say exactly: word of Ann {key} [fault:forbidden]"))
    read_texts(folder, request_id)
    words = ("report", request_id, "--yes", "--texts")
    for name, options, shown in (("named", ["--address"], True), ("hidden", [], False)):
        ended = run_command(*words, "--to", name, *options, directory=folder, settings=settings)
        assert ended.returncode == 0, ended.stderr
        files = read_files(folder / name)
        assert "word of Ann" in files["request.json"]
        assert json.loads(files["expected_error.json"])["status"] == 424
        assert find_leaks("".join(files.values()), secrets_in(stored)) == []
        assert ("127.0.0.1" in files["expected_upstream_request.json"]) is shown
        ended = run_command("replay", "--check", name, directory=folder, settings=settings)
        assert ended.returncode == 0, ended.stdout
        assert "127.0.0.1" not in files["expected_error.json"] or shown


def test_nothing_is_stored_by_default(tmp_path: Path, stored: dict[str, str]) -> None:
    usual = {name: value for name, value in stored.items() if name != "LEDGER_CONTENT"}
    usual["DATABASE_URL"] = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    with running_proxy(tmp_path, usual) as proxy:
        request_id, _ = send(proxy, ask("Say exactly: forget this"))
        assert read_texts(tmp_path, request_id) == {}
        page = proxy.client().get(f"/dashboard/requests/{request_id}").text
        assert "anthropic-proxy replay" not in page
        assert "The request cannot be sent again: its text is not stored." in page
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as database:  # texts in the files are compressed
        assert database.execute("SELECT count(*) FROM contents").fetchall() == [(0,)]
    ended = run_command("explain", "--last", "--model", "openai/gpt-4.1", directory=tmp_path, settings=usual)
    assert ended.stderr == (
        f"✕ --model needs the text of the request, which the ledger does not contain for {request_id}. "
        "The proxy stores later texts with LEDGER_CONTENT=true in .env. Explain a file with the request body:  "
        "anthropic-proxy explain FILE\n"
    )
    ended = run_command("replay", request_id, directory=tmp_path, settings=usual)
    assert (ended.returncode, ended.stderr) == (
        2,
        f"✕ replay needs the text of the request, which the ledger does not contain for {request_id}. "
        "The proxy stores later texts with LEDGER_CONTENT=true in .env.\n",
    )


def test_a_failed_replay_names_the_headers_that_it_could_not_copy(
    tmp_path: Path, stored: dict[str, str], upstream: Running
) -> None:
    headers = '{ x-a = { client = "x-team" }, x-b = { client = "x-tenant" }, x-c = "fixed" }'
    (tmp_path / "anthropic-proxy.toml").write_text(
        f'[providers.gateway]\nbase_url = "{upstream.url}/nothing/v1"\nheaders = {headers}\n'
        f'[providers.unused]\nbase_url = "{upstream.url}/v1"\nheaders = {headers}\n'
    )
    settings = {**stored, "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}"}
    with running_proxy(tmp_path, settings) as proxy:
        request_id, response = send(proxy, {**ask("hello"), "model": "gateway/m"})
        read_texts(tmp_path, request_id)
        settings["PORT"] = proxy.url.rpartition(":")[2]
        ended = run_command("replay", request_id, directory=tmp_path, settings=settings)
    assert response.status_code >= 400
    assert ended.returncode == 1
    assert [line for line in ended.stderr.splitlines() if "!" in line] == [
        "  ! Headers of clients are not stored, so a call to gateway has no copy of x-team and x-tenant."
    ]
