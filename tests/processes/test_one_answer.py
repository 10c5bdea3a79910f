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
LAST_TEXT = "the last prompt"
FAILURE = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}


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

    def run(self, *words: str, stdin: str = "") -> str:
        return run_command(*words, directory=self.folder, settings=self.settings, stdin=stdin).stdout

    def show(self, *words: str) -> str:
        return answer_questions(*words, answers=(), directory=self.folder, settings=self.settings).text

    def page(self, path: str) -> str:
        text = self.client.get(f"/dashboard{path}", headers={"accept": "text/html"}).text
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())

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
        {"if": '"Name it"', "then": reply(json.dumps({"title": NAME}))},
        {"if": f'"{LAST_TEXT}"', "then": last_reply},
        {"if": "always", "then": reply("All done.")},
    ]
    (folder / CONFIG_FILE).write_text(PRICES, "utf-8")
    with serving(new_scripted_server(script)) as provider:
        settings = {"PREFERRED_PROVIDER": "openai", "OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{provider.url}/v1"}
        settings["DATABASE_URL"] = f"sqlite:///{folder / 'ledger.sqlite3'}"
        with running_proxy(folder, settings) as proxy, proxy.client() as client:

            def send(text: str, model: str = MODEL, **fields: Any) -> httpx.Response:
                messages = [{"role": "user", "content": text}]
                body = {"model": model, "max_tokens": 100, "messages": messages, **fields}
                return client.post(MESSAGES, json=body, headers=HEADERS)

            tools = [{"name": name, "input_schema": {"type": "object"}} for name in ("Bash", "Read")]
            schema = {"output_config": {"format": {"type": "json_schema", "schema": title}}}
            replies = [send("Name it", "claude-haiku-5-5", **schema)]
            replies += [send(text, tools=tools) for text in ("first", "second")]
            replies += [send("<transcript>\n</transcript>\n", "claude-haiku-5-5", **CLASSIFIER)]
            assert {response.status_code for response in replies} == {200}
            last = send(LAST_TEXT, tools=tools)
            wait_for(lambda: len(client.get("/api/requests").json()["requests"]) == 5)
            running = {**settings, "PORT": proxy.url.rpartition(":")[2]}
            yield Day(proxy, client, folder, running, last.status_code, last.headers["request-id"])


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
        health = json.loads(day.run("health", "--json"))
        problems = "open problem"
        assert (health["ledger"], health["problems"]) == ("ok", [])
        assert ("All is well now" in pages[""]) == is_good
        assert (problems in day.page("/providers")) == (not is_good)
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
