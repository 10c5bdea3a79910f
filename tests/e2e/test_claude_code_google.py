"""Claude Code with Google's models, by both of Google's APIs: thinking, and several tool calls at once."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.claude import NOTES, do_the_task, run_claude
from tests.support.fakes.gemini.server import KEY, PROJECT, new_gemini
from tests.support.fakes.google_tokens import TokenServers, new_token_servers, write_service_account
from tests.support.fakes.openai_chat.samples import png
from tests.support.fakes.server import Running, serving, serving_strictly
from tests.support.server_process import Proxy, running_proxy


@pytest.fixture
def servers() -> TokenServers:
    return TokenServers()


@pytest.fixture
def google(servers: TokenServers) -> Iterator[Running]:
    with serving_strictly(new_gemini(accepts_token=servers.accepts)) as running:
        yield running


@pytest.fixture
def tokens(servers: TokenServers) -> Iterator[Running]:
    with serving(new_token_servers(servers)) as running:
        yield running


@pytest.fixture(params=["google", "vertex"])
def proxy(request: pytest.FixtureRequest, google: Running, tokens: Running, server: Path) -> Iterator[Proxy]:
    settings = {"PREFERRED_PROVIDER": request.param, "BIG_MODEL": "gemini-3.8-flash", "SMALL_MODEL": "gemini-2.5-flash"}
    if request.param == "google":
        settings |= {"GEMINI_API_KEY": KEY, "GEMINI_BASE_URL": f"{google.url}/v1beta"}
    else:
        file = write_service_account(server, tokens.url)
        settings |= {"VERTEX_PROJECT": PROJECT, "VERTEX_BASE_URL": google.url, "VERTEX_LOCATION": "global"}
        settings |= {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}
    with running_proxy(server, settings) as running:
        yield running
        assert "Traceback" not in running.log
        assert " 500 " not in running.log


def contents_of(google: Running) -> list[list[Any]]:
    return [exchange.body["contents"] for exchange in google.journal.exchanges]


def test_a_task_of_several_turns_reads_writes_and_edits_files(
    claude: Path, proxy: Proxy, google: Running, work: Path
) -> None:
    do_the_task(claude, proxy.url, work)
    asked = [contents for contents in contents_of(google) if "upper case" in str(contents[0])]
    calls = [part for content in asked[-1] for part in content["parts"] if "functionCall" in part]
    assert [bool(part.get("thoughtSignature")) for part in calls] == [True, True, False, True]
    assert all(part.get("thoughtSignature") != "skip_thought_signature_validator" for part in calls)


@pytest.mark.parametrize(("fault", "by_the_proxy"), [("thought", True), ("announced", False)])
def test_a_file_is_written_although_google_could_not_read_the_first_call(
    claude: Path, proxy: Proxy, google: Running, work: Path, fault: str, by_the_proxy: bool
) -> None:
    """After text, the client sends the request again because of the error."""
    notes, target = work / "notes.txt", work / "loud.txt"
    notes.write_text(NOTES)
    prompt = f"Read {notes} and write its words in upper case to {target} [fault:{fault} round=1 times=1]"
    run = run_claude(claude, proxy.url, work, prompt, "--allowedTools", "Read Write Edit")
    assert run.returncode == 0, run.stderr
    assert target.read_text() == NOTES.upper()
    assert [name for name, _ in run.calls()] == ["Read", "Write", "Edit", "Read"]
    assert run.text == f"{target} now holds: {NOTES.upper().strip()}"
    asked = [contents for contents in contents_of(google) if "upper case" in str(contents[0])]
    repeated = [before == after for before, after in itertools.pairwise(asked)]
    assert repeated == [False, True, False, False]
    assert ("POST /v1/messages 502" in proxy.log) is not by_the_proxy


def test_a_picture_is_seen(claude: Path, proxy: Proxy, google: Running, work: Path) -> None:
    (work / "a.png").write_bytes(png(31, 17))
    run = run_claude(claude, proxy.url, work, f"Look at the picture {work / 'a.png'}", "--allowedTools", "Read")
    assert "31 by 17 pixels" in run.text
