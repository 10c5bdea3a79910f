"""The first week of a person with an own server: llama.cpp, Claude Code, and each place that says how it went.

The functions are the days, in order. They share the settings, the ledger and the proxy of the week.
"""

import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from msgspec import Struct

from anthropic_proxy.gateway.settings import ENV_FILE
from tests.e2e.claude import environment, find_claude
from tests.support.command_line import run_command
from tests.support.paths import ROOT
from tests.support.server_process import Proxy, free_port, running_proxy
from tests.support.terminal import answer_questions
from tests.support.waiting import WAIT_SECONDS, wait_for

pytest.importorskip("xllamacpp", reason="engine: llama.cpp is not installed: python3 scripts/ci.py engine")

LARGE, SMALL = 65_536, 8_192
"""Windows in tokens. Claude Code needs more than the second one."""


class Week(Struct):
    proxy: Proxy
    client: httpx.Client
    model: str
    """Id of the model: the path of its file."""
    server: "subprocess.Popen[bytes]"
    folder: Path
    settings: Mapping[str, str]

    def run(self, *words: str, stdin: str = "") -> str:
        done = run_command(*words, directory=self.folder, settings=self.settings, stdin=stdin)
        return done.stdout + done.stderr

    def show(self, *words: str) -> str:
        """Run a command in a terminal."""
        return answer_questions(*words, answers=(), directory=self.folder, settings=self.settings).text

    def page(self, path: str) -> str:
        text = self.client.get(f"/dashboard{path}", headers={"accept": "text/html"}).text
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())

    def read_requests(self) -> list[Any]:
        rows: list[Any] = self.client.get("/api/requests").json()["requests"]
        return rows

    def status_line(self, session: str) -> str:
        told = {"session_id": session, "model": {"id": "claude-opus-5-5", "display_name": "Opus 5.5"}}
        variables = {**self.settings, "ANTHROPIC_BASE_URL": self.proxy.url, "ANTHROPIC_AUTH_TOKEN": "local"}
        line = run_command("statusline", directory=self.folder, settings=variables, stdin=json.dumps(told))
        return line.stdout.strip()

    def ask(self, prompt: str) -> "subprocess.CompletedProcess[str]":
        """Run Claude Code with one tool and a short system prompt, which the model of random numbers reads quickly."""
        return run_claude(self.folder, self.proxy.url, prompt)


def run_claude(folder: Path, url: str, prompt: str) -> "subprocess.CompletedProcess[str]":
    project = folder / "shop"
    project.mkdir(exist_ok=True)
    options = ("--tools", "Bash", "--system-prompt", "Be brief.", "--model", "opus", "--output-format", "json")
    variables = environment(url, folder, CLAUDE_CODE_MAX_RETRIES="0", CLAUDE_CODE_MAX_CONTEXT_TOKENS=str(LARGE))
    command = [str(find_claude()), "-p", prompt, *options]
    return subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=False)


@contextmanager
def running_engine(folder: Path, window: int) -> Iterator[tuple[str, str, "subprocess.Popen[bytes]"]]:
    """Yield address, name of the model and process of llama.cpp that was started with a file only."""
    model, log = folder / f"tiny-{window}.gguf", folder / f"engine-{window}.log"
    words = [sys.executable, "-m", "tests.local_engine.server", str(model), "", str(free_port()), str(window)]
    with log.open("w") as output:
        process = subprocess.Popen(words, cwd=ROOT, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: process.poll() is not None or "listening on http" in log.read_text())
        assert process.poll() is None, log.read_text()
        yield log.read_text().partition("\nlistening on ")[2].partition("\n")[0], str(model), process
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("week")


@pytest.fixture(scope="module")
def week(folder: Path) -> Iterator[Week]:
    settings = {"DATABASE_URL": f"sqlite:///{folder / 'ledger.sqlite3'}"}
    with running_engine(folder, LARGE) as (url, model, server):
        words = ("--provider", "other", "--base-url", f"{url}/v1", "--big-model", model, "--yes")
        chosen = run_command("init", *words, directory=folder, settings=settings)
        assert chosen.returncode == 0, chosen.stdout + chosen.stderr
        assert "answers, 1 model, " in chosen.stdout
        assert f"local/{model} has a context window of 65,536 tokens: Claude Code fits" in chosen.stdout
        assert f"BIG_MODEL=local/{model}" in (folder / ENV_FILE).read_text()
        with running_proxy(folder, settings) as proxy, proxy.client() as client:
            variables = {**settings, "PORT": proxy.url.rpartition(":")[2]}
            yield Week(proxy, client, model, server, folder, variables)


def test_monday_the_model_of_the_own_server_replies_in_claude_code(week: Week) -> None:
    done = week.ask("hello")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = wait_for(lambda: [row for row in week.read_requests() if row["kind"] == "main"])
    assert (row["status"], row["model"], row["cost"]) == (200, week.model, 0)
    session = json.loads(done.stdout)["session_id"]
    line = week.status_line(session)
    assert line.startswith(f"local/{week.model} · "), line
    assert " · session free · today free" in line


def test_tuesday_a_session_has_one_name(week: Week) -> None:
    (row,) = [row for row in week.read_requests() if row["kind"] == "main"]
    session = row["session"]
    (entry,) = [one for one in week.client.get("/dashboard/palette").json()["entries"] if one["kind"] == "Session"]
    name = entry["text"]
    places = {
        "list": week.page("/sessions"),
        "page": week.page(f"/session?session={session}"),
        "usage": week.show("usage", "--by", "session"),
        "explain": week.run("explain", row["id"]),
    }
    assert {place: name in text for place, text in places.items()} == dict.fromkeys(places, True)


def test_wednesday_the_doctor_finds_a_problem_and_all_places_have_it(week: Week) -> None:
    """The model calls no tools. The requests of the doctor are in no sum of the day."""
    before = week.client.get("/api/usage?since=1d").json()["total"]["requests"]
    found = week.run("doctor")
    assert "calls no tools" in " ".join(found.split()), found
    assert week.client.get("/api/usage?since=1d").json()["total"]["requests"] == before
    problems = json.loads(week.run("health", "--json").partition("\n!")[0])["problems"]
    (finding,) = [problem for problem in problems if "calls no tools" in problem]
    overview, providers = week.page(""), week.page("/providers")
    assert f" {len(problems)} open problem" in providers, providers
    assert "All is well now" not in overview
    for page in (overview, providers):
        assert finding.rstrip(".") in page, page


def test_thursday_a_small_window_is_named_before_and_with_its_remedy_after(tmp_path: Path) -> None:
    settings = {"DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}"}
    with running_engine(tmp_path, SMALL) as (url, model, _):
        words = ("--provider", "other", "--base-url", f"{url}/v1", "--big-model", model, "--yes")
        chosen = run_command("init", *words, directory=tmp_path, settings=settings)
        assert (
            f"local/{model} has a context window of 8,192 tokens. Sessions reach 44,000. For a larger one, where the "
            "server starts:  -c 81920 (llama.cpp)"
        ) in chosen.stdout + chosen.stderr
        with running_proxy(tmp_path, settings) as proxy:
            done = run_claude(tmp_path, proxy.url, "sea " * SMALL)
            assert "Prompt is too long" in done.stdout
            variables = {**settings, "PORT": proxy.url.rpartition(":")[2]}
            rows = wait_for(lambda: proxy.client().get("/api/requests").json()["requests"])
            explained = run_command("explain", rows[0]["id"], directory=tmp_path, settings=variables).stdout
            assert "-c (llama.cpp), --max-model-len (vLLM)" in explained


def test_friday_a_failure_has_one_number_everywhere(week: Week) -> None:
    week.server.terminate()
    week.server.wait(WAIT_SECONDS)
    known = {row["id"] for row in week.read_requests()}
    done = week.ask("are you there?")
    failed = wait_for(lambda: [row for row in week.read_requests() if row["id"] not in known and row["kind"] == "main"])
    row = failed[0]
    status = row["status"]
    assert status >= 500
    result = json.loads(done.stdout)
    assert f"API Error: {status}" in result["result"]
    assert f"✕ local {status}" in week.status_line(result["session_id"])
    assert f"Failed with {status}" in week.page(f"/requests/{row['id']}")
    assert f"with {status}" in week.page("")
    assert f" {status}" in week.run("explain", row["id"])
    assert f"POST /v1/messages {status} " in week.proxy.log


def test_saturday_what_is_left_to_remove_is_named(week: Week) -> None:
    shown = week.run("config", "show")
    for place in ("Settings files: ", "Ledger: ", "Log: "):
        assert place in shown
    assert os.fspath(week.folder / "ledger.sqlite3").rpartition("/")[2] in shown


def test_sunday_the_sums_of_the_week_are_equal(week: Week) -> None:
    total = week.client.get("/api/usage?since=7d").json()["total"]
    of_command = json.loads(week.run("usage", "--since", "7d", "--json").partition("\n!")[0])["total"]
    assert of_command == total
    rows = week.read_requests()
    assert (total["requests"], total["errors"]) == (len(rows), sum(row["status"] >= 400 for row in rows))
    assert total["cost"] == 0
