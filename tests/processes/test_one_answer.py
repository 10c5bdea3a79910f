"""A good and a bad day have the same amounts, names and states in commands, API, pages and status line."""

import html
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from msgspec import Struct

from anthropic_proxy.gateway.settings import CONFIG_FILE
from tests.support.command_line import run_command
from tests.support.fakes.server import serving
from tests.support.process_checks import MESSAGES
from tests.support.scripted_answers import new_scripted_server
from tests.support.server_process import Proxy, running_proxy
from tests.support.terminal import answer_questions
from tests.support.waiting import wait_for

SESSION = "0f6c2a1e-94a4-4c56-9d83-1f2b3c4d5e6f"
NAME = "Fix the test of discounts"
HEADERS = {"x-claude-code-session-id": SESSION, "user-agent": "claude-cli/2.1.332 (external, cli)"}
MODEL = "claude-opus-5-5"
PRICES = """
[prices."openai/gpt-4.1"]
input = 100000
output = 0
[prices."openai/gpt-4.1-mini"]
input = 0
output = 0
"""
CLASSIFIER = {"system": "Output <severity>N</severity>.", "max_tokens": 64}
TOOLS = [{"name": name, "input_schema": {"type": "object"}} for name in ("Bash", "Read")]
LAST_TEXT = "the last prompt"
FAILURE = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}

FAILURES = {
    "a rejected key": (401, {"message": "Incorrect API key provided.", "code": "invalid_api_key"}),
    "a failing server": (503, {"message": "The server failed."}),
    "a rate limit": (429, {"message": "Rate limit reached.", "code": "rate_limit_exceeded"}),
}
WELL = {
    "Overview": "All is well now",
    "Providers": "1 provider ready.",
    "row": "ready",
    "health": (["openai"], 0),
    "status line": True,
}
FAILING = {
    "Overview": "One open problem",
    "Providers": "0 providers ready. 1 open problem.",
    "row": "failing",
    "health": ([], 1),
    "status line": False,
}


def reply(text: str) -> str:
    return f"200 reply {json.dumps({'texts': [text]})}"


class Day(Struct):
    proxy: Proxy
    client: httpx.Client
    folder: Path
    settings: Mapping[str, str]
    status: int
    """Status that the client got for the last request."""
    last: str
    """Id of the last request."""
    script: list[dict[str, str]]
    """What the provider answers."""

    def run(self, *words: str, stdin: str = "") -> str:
        return run_command(*words, directory=self.folder, settings=self.settings, stdin=stdin).stdout

    def show(self, *words: str) -> str:
        return answer_questions(*words, answers=(), directory=self.folder, settings=self.settings).text

    def page(self, path: str) -> str:
        text = self.client.get(f"/dashboard{path}", headers={"accept": "text/html"}).text
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())

    def send(self, text: str, model: str = MODEL, **fields: Any) -> httpx.Response:
        """Send a request of the session, and wait until the ledger has it."""
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "max_tokens": 100, "messages": messages, **fields}
        response = self.client.post(MESSAGES, json=body, headers=HEADERS)
        sent = response.headers["request-id"]
        wait_for(lambda: sent in [row["id"] for row in self.client.get("/api/requests").json()["requests"]])
        return response

    def answer_all(self, answer: str) -> None:
        """Let the provider answer each request so from now on."""
        self.script[0].update({"if": "always", "then": answer})

    def states(self) -> dict[str, object]:
        """Return what each surface says about whether the provider works now."""
        overview = re.search(r"All is well now|One open problem|Now: \d+ open problems", self.page(""))
        providers = re.search(r"\d+ providers? ready\.(?: \d+ open problems?\.)?", self.page("/providers"))
        rows = self.client.get("/dashboard/providers?table=providers&format=json").json()
        health = json.loads(self.run("health", "--json"))
        return {
            "Overview": overview and overview[0],
            "Providers": providers and providers[0],
            "row": next(row["state"] for row in rows if row["prefix"] == "openai"),
            "health": (health["ready_providers"], len(health["problems"])),
            "status line": "✕" not in self.status_line(),
        }

    def usage(self) -> Any:
        return self.client.get("/api/usage?by=session&since=1d").json()

    def status_line(self) -> str:
        session = {"session_id": SESSION, "model": {"id": MODEL, "display_name": "Opus 5.5"}}
        variables = {**self.settings, "ANTHROPIC_BASE_URL": self.proxy.url, "ANTHROPIC_AUTH_TOKEN": "local"}
        done = run_command("statusline", directory=self.folder, settings=variables, stdin=json.dumps(session))
        return done.stdout


@contextmanager
def living_through(folder: Path, last_reply: str) -> Iterator[Day]:
    """Send a title, two turns, a question of the classifier and a last turn, which gets this reply."""
    title = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
    script = [
        {"if": "nothing", "then": ""},
        {"if": '"Name it"', "then": reply(json.dumps({"title": NAME}))},
        {"if": f'"{LAST_TEXT}"', "then": last_reply},
        {"if": "always", "then": reply("All done.")},
    ]
    (folder / CONFIG_FILE).write_text(PRICES, "utf-8")
    with serving(new_scripted_server(script)) as provider:
        settings = {"PREFERRED_PROVIDER": "openai", "OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{provider.url}/v1"}
        settings["DATABASE_URL"] = f"sqlite:///{folder / 'ledger.sqlite3'}"
        with running_proxy(folder, settings) as proxy, proxy.client() as client:
            running = {**settings, "PORT": proxy.url.rpartition(":")[2]}
            day = Day(proxy, client, folder, running, 0, "", script)
            schema = {"output_config": {"format": {"type": "json_schema", "schema": title}}}
            replies = [day.send("Name it", "claude-haiku-5-5", **schema)]
            replies += [day.send(text, tools=TOOLS) for text in ("first", "second")]
            replies += [day.send("<transcript>\n</transcript>\n", "claude-haiku-5-5", **CLASSIFIER)]
            assert {response.status_code for response in replies} == {200}
            last = day.send(LAST_TEXT, tools=TOOLS)
            day.status, day.last = last.status_code, last.headers["request-id"]
            yield day


@pytest.mark.parametrize(
    ("last_reply", "cost", "turns"),
    [(reply("Done."), "$2.10", 3), (f"402 {json.dumps(FAILURE)}", "$1.40", 2)],
    ids=["a good day", "a bad day"],
)
def test_all_surfaces_agree(tmp_path: Path, last_reply: str, cost: str, turns: int) -> None:
    with living_through(tmp_path, last_reply) as day:
        is_good = day.status == 200
        failed = 0 if is_good else 1

        # amounts
        usage = day.usage()
        assert (round(usage["total"]["cost"], 6), usage["total"]["requests"]) == (round(0.7 * turns, 6), 5)
        assert usage["total"]["errors"] == failed
        assert json.loads(day.run("usage", "--by", "session", "--json"))["total"]["cost"] == usage["total"]["cost"]
        shown = day.show("usage", "--by", "session")
        pages = {path: day.page(path) for path in ("", "/costs", "/sessions", f"/session?session={SESSION}")}
        line = wait_for(day.status_line, lambda line: " · session " in line)  # on a busy machine, some have no sums
        assert cost in shown
        assert {path: cost in page for path, page in pages.items()} == dict.fromkeys(pages, True)
        assert f"session {cost}" in line
        kinds = {group["name"]: group["requests"] for group in day.client.get("/api/usage?by=kind").json()["groups"]}
        assert kinds == {"main": 3, "auxiliary": 1, "classifier": 1}

        metrics = day.client.get("/metrics").text
        spent = re.findall(r"^anthropic_proxy_cost_dollars_total\{.*\} (\S+)$", metrics, re.MULTILINE)
        assert sum(map(float, spent)) == pytest.approx(usage["total"]["cost"])
        answered = Counter[int]()
        counted = r'^anthropic_proxy_requests_total\{.*status="(\d+)".*\} (\S+)$'
        for status, number in re.findall(counted, metrics, re.MULTILINE):
            answered[int(status)] += round(float(number))
        assert answered == Counter([200] * 4 + [day.status])

        # names
        explained = day.run("explain", day.last)
        palette = day.client.get("/dashboard/palette").json()["entries"]
        assert NAME in shown
        assert NAME in explained
        assert [entry["text"] for entry in palette if entry["kind"] == "Session"] == [NAME]
        assert NAME in pages["/sessions"]
        assert NAME in pages[f"/session?session={SESSION}"]

        # states
        assert json.loads(day.run("health", "--json"))["ledger"] == "ok"
        assert day.states() == (WELL if is_good else FAILING)
        (stored,) = [row for row in day.client.get("/api/requests").json()["requests"] if row["id"] == day.last]
        assert stored["status"] == day.status
        assert f"POST /v1/messages {day.status} " in day.proxy.log
        # what the surfaces ask of the proxy is no failure of its own
        assert re.findall(r"\S+ 404 .*", day.proxy.log) == []
        if is_good:
            assert "✕" not in line
        else:
            assert f"✕ openai {day.status}" in line
            assert f"Failed with {day.status}" in day.page(f"/requests/{day.last}")
            assert f"with {day.status}" in pages[""]
            assert f" {day.status}" in explained
            assert f" {day.status} " in day.run("logs", "--no-follow", "-n", "1")


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_one_problem_everywhere_until_the_provider_replies(tmp_path: Path, failure: str) -> None:
    """The doctor sees the same failure as a client, and does not outlive it."""
    status, error = FAILURES[failure]
    with living_through(tmp_path, reply("Done.")) as day:
        shown = [day.states()]
        day.answer_all(f"{status} {json.dumps({'error': error})}")
        assert day.send("failing", tools=TOOLS).status_code != 200
        shown.append(day.states())
        described = day.run("health")
        assert "    ready     no provider\n" in described
        assert "    problems  1 request failed at openai with " in described
        assert run_doctor(day) == 1
        shown.append(day.states())
        day.answer_all(reply("Done."))
        assert day.send("again", tools=TOOLS).status_code == 200
        shown.append(day.states())
    assert shown == [WELL, FAILING, FAILING, WELL]


def test_a_reply_to_the_doctor_ends_an_earlier_failure(tmp_path: Path) -> None:
    """The fake calls no tools, which the doctor finds, and which a reply does not disprove. The status line keeps the
    failure of the last turn until the next one.
    """
    status, error = FAILURES["a rejected key"]
    with living_through(tmp_path, reply("Done.")) as day:
        day.answer_all(f"{status} {json.dumps({'error': error})}")
        assert day.send("failing", tools=TOOLS).status_code != 200
        shown = [day.states()]
        day.answer_all(reply("Done."))
        run_doctor(day)
        shown.append(day.states())
        assert day.send("again", tools=TOOLS).status_code == 200
        shown.append(day.states())
    found = {
        **WELL,
        "Overview": "Now: 2 open problems",
        "Providers": "1 provider ready. 2 open problems.",
        "health": (["openai"], 2),
    }
    assert shown == [FAILING, {**found, "status line": False}, found]


def test_a_finding_of_the_doctor_ends_with_a_later_success_until_a_newer_run(tmp_path: Path) -> None:
    status, error = FAILURES["a rejected key"]
    rejected = f"{status} {json.dumps({'error': error})}"
    found = {**FAILING, "status line": True}  # no request of the session has failed
    with living_through(tmp_path, reply("Done.")) as day:
        day.answer_all(rejected)
        assert run_doctor(day) == 1
        shown = [day.states()]
        day.answer_all(reply("Done."))
        assert day.send("well", tools=TOOLS).status_code == 200
        shown.append(day.states())
        day.answer_all(rejected)
        assert run_doctor(day) == 1
        shown.append(day.states())
    assert shown == [found, WELL, found]


def run_doctor(day: Day) -> int:
    return run_command("doctor", directory=day.folder, settings=day.settings).returncode
