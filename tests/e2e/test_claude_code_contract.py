"""Claude Code in a session, on four wires: its behavior is independent of the model."""

import itertools
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import mcp_server
from tests.e2e.claude import Run, do_the_task, run_claude
from tests.support.fakes.openai_chat.samples import pdf, png
from tests.support.fakes.scripted_model import with_loaded_tools
from tests.support.fakes.searxng import Searxng, new_searxng, result
from tests.support.fakes.server import serving_strictly
from tests.support.server_process import running_proxy
from tests.support.wires import KINDS, Upstream, standing


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """One wire, and a search service for those that have none of their own."""
    pages = [result("https://orchard.example/quince", "Quinces", content="The quince is ripe.")]
    with (
        serving_strictly(new_searxng(Searxng(pages))) as service,
        standing(request.param, tmp_path_factory.mktemp(request.param), SEARCH_URL=service.url) as upstream,
    ):
        yield upstream
        assert "Traceback" not in upstream.proxy.log
        assert " 500 " not in upstream.proxy.log


@pytest.fixture
def upstream(shared: Upstream) -> Iterator[Upstream]:
    """Yield the upstream as one test sees it; every request that it causes is one that the real provider takes."""
    seen = Upstream(shared.kind, shared.running, shared.proxy)
    yield seen
    assert seen.breaches() == []


def tools_of(run: Run) -> list[str]:
    return [name for name, _ in run.calls()]


def fill(work: Path) -> None:
    (work / "notes.txt").write_text("rye bread\n")
    (work / "plan.png").write_bytes(png(64, 48))
    (work / "deed.pdf").write_bytes(pdf())


def assert_grew(upstream: Upstream) -> None:
    """Check that each request of a session begins with the whole conversation of the one before, to the byte."""
    for before, after in itertools.pairwise(upstream.bodies):
        old, new = before[upstream.kind.conversation_field], after[upstream.kind.conversation_field]
        assert json.dumps(new[: len(old)]) == json.dumps(old)


def test_a_session_reads_pictures_and_documents_loads_a_tool_and_edits_beside_a_slow_command(
    claude: Path, upstream: Upstream, work: Path
) -> None:
    fill(work)
    run = run_claude(claude, upstream.proxy.url, work, f"Survey {work}", "--allowedTools", "Read Edit Bash")
    pictures, documents = ["64 by 48"], [len(pdf())]
    if not upstream.kind.accepts_documents:  # the model sees the page of the PDF
        pictures, documents = [*pictures, "1400 by 1400"], []
    expected = f"notes rye bread; pictures {pictures}; documents {documents}; loaded True; a slow answer"
    assert run.text == expected
    assert tools_of(run) == ["Read", "Read", "Read", "ToolSearch", "Bash", "Edit"]
    assert not any(result.get("is_error") for result in run.results())
    assert (work / "notes.txt").read_text() == "RYE BREAD\n"
    assert len({json.dumps(body["tools"]) for body in upstream.bodies}) == 1
    offered = [with_loaded_tools(conversation).tools for conversation in upstream.conversations]
    assert ["WebFetch" in tools for tools in offered] == [False, False, True, True]
    assert_grew(upstream)
    turns = upstream.conversations[-1].turns
    results = [result.text for turn in turns for result in turn.results]
    assert any(text.startswith(("Tool available: WebFetch", "Tool loaded: WebFetch.")) for text in results)


@pytest.mark.slow
def test_late_system_text_stays_at_its_position(claude: Path, upstream: Upstream, work: Path) -> None:
    """The message about its surroundings has the role system and comes after the person's own, last of the first."""
    fill(work)
    run_claude(claude, upstream.proxy.url, work, f"Read {work / 'notes.txt'}", "--allowedTools", "Read")
    first, second = upstream.conversations
    texts = [turn.text for turn in first.turns]
    assert "# Environment" in texts[-1].removeprefix(texts[0])
    assert f"Read {work / 'notes.txt'}" in "\n".join(texts[1:])
    assert [turn.text for turn in second.turns][: len(texts)] == texts
    assert "cc_version" not in json.dumps(upstream.bodies)
    assert_grew(upstream)


@pytest.mark.slow
def test_a_write_in_plan_mode_is_refused_and_reported(claude: Path, upstream: Upstream, work: Path) -> None:
    fill(work)
    prompt = f"Read {work / 'notes.txt'} and write its words in upper case to {work / 'loud.txt'}"
    options = ("--permission-mode", "plan", "--allowedTools", "Read Write Edit")
    run = run_claude(claude, upstream.proxy.url, work, prompt, *options)
    assert [bool(result.get("is_error")) for result in run.results()] == [False, True, True, True]
    assert not (work / "loud.txt").exists()
    assert any("plan mode" in turn.text.lower() for turn in upstream.conversations[0].turns)
    failed = upstream.conversations[-1].turns
    assert any("plan mode" in result.text for turn in failed for result in turn.results)


@pytest.mark.slow
def test_a_subagent_works_beside(claude: Path, upstream: Upstream, work: Path) -> None:
    fill(work)
    prompt = f"Delegate: Read {work / 'notes.txt'}"
    run = run_claude(claude, upstream.proxy.url, work, prompt, "--allowedTools", "Read Agent")
    assert "The file says: rye bread" in run.text
    assert len({tuple(conversation.tools) for conversation in upstream.conversations}) == 2


@pytest.mark.slow
def test_pasted_pictures_are_seen(claude: Path, upstream: Upstream, work: Path) -> None:
    import base64

    data = base64.b64encode(png(31, 17)).decode()
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    prompt: list[dict[str, Any]] = [{"type": "text", "text": "Describe the pictures"}, picture]
    run = run_claude(claude, upstream.proxy.url, work, prompt)
    assert run.text == "I see 1 pictures: image/png 31 by 17."


@pytest.mark.slow
def test_the_web_is_searched(claude: Path, upstream: Upstream, work: Path) -> None:
    """The client loads its tool, and searches by a request of its own with the provider's tool only."""
    run = run_claude(claude, upstream.proxy.url, work, "Search the web for the quince", "--allowedTools", "WebSearch")
    assert tools_of(run) == ["ToolSearch", "WebSearch"]
    assert 'Web search results for query: "the quince"' in run.text
    assert '"url":"https://' in run.text.replace(" ", "")
    if upstream.kind.searches:
        assert "It is said that the quince is well." in run.text
        assert any(conversation.searches for conversation in upstream.conversations)
    else:
        assert "https://orchard.example/quince" in run.text


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<html><body><h1>Quinces</h1><p>They are ripe.</p></body></html>"
        self.send_response(200)
        for name, value in (("content-type", "text/html"), ("content-length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Write nothing to the test's own error output."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Give the address of a page, and the certificate to trust: the client fetches by HTTPS only."""
    folder = tmp_path_factory.mktemp("page")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"engine: openssl cannot make a certificate: {error}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}/quinces", certificate
    server.shutdown()


@pytest.mark.slow
def test_a_page_is_fetched(claude: Path, upstream: Upstream, work: Path, page: tuple[str, Path]) -> None:
    """The client fetches, and has another model of its own summarize the page."""
    address, certificate = page
    options = ("--allowedTools", "WebFetch", "--settings", '{"skipWebFetchPreflight": true}')
    more = {"NODE_EXTRA_CA_CERTS": str(certificate)}
    run = run_claude(claude, upstream.proxy.url, work, f"Fetch {address}", *options, **more)
    assert tools_of(run) == ["ToolSearch", "WebFetch"]
    assert "The page said: a page of yours" in run.text
    apart = [conversation for conversation in upstream.conversations if not conversation.tools]
    assert any("They are ripe." in turn.text for conversation in apart for turn in conversation.turns)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sonnet[1m]", "opus[1m]"])
def test_a_long_window_is_asked_for(claude: Path, upstream: Upstream, work: Path, model: str) -> None:
    run = run_claude(claude, upstream.proxy.url, work, "Count to 3", "--model", model)
    assert run.text == "1 2 3", run.stderr
    (asked,) = upstream.exchanges
    assert upstream.kind.model in asked.path + str(asked.body.get("model"))


@pytest.mark.slow
def test_each_effort_is_encoded_as_the_model_expects_it(claude: Path, upstream: Upstream, work: Path) -> None:
    for effort, expected in upstream.kind.efforts.items():
        assert run_claude(claude, upstream.proxy.url, work, "Count to 2", "--effort", effort).text == "1 2"
        assert upstream.kind.effort_of(upstream.bodies[-1]) == expected, effort


def test_thoughts_survive_a_second_process_and_a_restart(
    claude: Path, upstream: Upstream, work: Path, server: Path
) -> None:
    """Reasoning lies between calls and is signed; nothing of it is kept by the proxy."""
    fill(work)
    kind, (notes, target) = upstream.kind, (work / "notes.txt", work / "loud.txt")
    prompt = f"Read {notes} and write its words in upper case to {target}"
    first = run_claude(claude, upstream.proxy.url, work, prompt, "--allowedTools", "Read Write Edit")
    session = ("--resume", first.result["session_id"])
    with running_proxy(server, kind.settings(upstream.running.url)) as restarted:
        again = run_claude(claude, restarted.url, work, "What did you think", *session)
        last = run_claude(claude, restarted.url, work, "Count to 3", "--continue")
    assert again.text == f"I remember {kind.thoughts} thoughts."
    assert last.text == "1 2 3"
    assert_grew(upstream)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_nothing_of_a_request_is_lost_where_losses_are_refused(
    claude: Path, name: str, work: Path, server: Path
) -> None:
    with standing(name, server, FIDELITY="strict") as upstream:
        do_the_task(claude, upstream.proxy.url, work)
        assert upstream.breaches() == []


@pytest.mark.slow
def test_an_answer_by_schema(claude: Path, upstream: Upstream, work: Path) -> None:
    schema = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
    prompt = "Call the tool StructuredOutput"
    run = run_claude(claude, upstream.proxy.url, work, prompt, "--json-schema", json.dumps(schema))
    assert run.result["structured_output"] == {"town": "town"}


@pytest.mark.slow
def test_arguments_of_a_call_arrive_as_they_are_written(claude: Path, upstream: Upstream, work: Path) -> None:
    fill(work)
    prompt = f"Read {work / 'notes.txt'} and write its words in upper case to {work / 'loud.txt'}"
    options = ("--allowedTools", "Read Write Edit", "--include-partial-messages")
    run = run_claude(claude, upstream.proxy.url, work, prompt, *options)
    events = [event["event"] for event in run.events if event["type"] == "stream_event"]
    pieces: list[list[str]] = []
    for event in events:
        if event["type"] == "content_block_start":
            pieces.append([])
        elif event["type"] == "content_block_delta" and event["delta"]["type"] == "input_json_delta":
            pieces[-1].append(event["delta"]["partial_json"])
    whole = [json.loads("".join(call)) for call in pieces if call]
    assert [given["file_path"] for given in whole] == [given["file_path"] for _, given in run.calls()]
    # Gemini and Ollama send a call whole.
    if upstream.kind.conversation_field != "contents" and upstream.kind.path != "/api/chat":
        assert max(len(call) for call in pieces) > 2


@pytest.mark.slow
def test_models_are_discovered(claude: Path, upstream: Upstream, work: Path) -> None:
    more = {"CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1"}
    assert run_claude(claude, upstream.proxy.url, work, "Say exactly: hi", **more).text == "hi"
    kept = json.loads((work.parent / "home" / ".claude" / "cache" / "gateway-models.json").read_text())
    names = [model["id"] for model in kept["models"]]
    assert all("claude" in name or "anthropic" in name for name in names)
    chosen = next(name for name in names if name.endswith(upstream.kind.model))
    again = run_claude(claude, upstream.proxy.url, work, "Say exactly: found", "--model", chosen)
    assert again.text == "found"


@pytest.mark.slow
def test_tools_of_an_mcp_server_are_found_and_called(claude: Path, upstream: Upstream, work: Path) -> None:
    (work / "notes").write_text("rye bread\n")
    server = {"type": "stdio", "command": sys.executable, "args": [mcp_server.__file__, str(work)]}
    config = json.dumps({"mcpServers": {"cabinet": server}})
    options = ("--mcp-config", config, "--strict-mcp-config", "--allowedTools", "mcp__cabinet")
    prompt = "Load mcp__cabinet__open_note and read notes"
    run = run_claude(claude, upstream.proxy.url, work, prompt, *options, ENABLE_TOOL_SEARCH="true")
    assert tools_of(run) == ["ToolSearch", "mcp__cabinet__open_note"], run.text
    assert "rye bread" in run.text
