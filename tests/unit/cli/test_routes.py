"""Commands `routes list` and `routes explain`, and the route in `explain`, with the output as users see it."""

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.cli import commands
from anthropic_proxy.errors import ConfigurationError
from tests.support.routes import CLAUDE_CODE, TOOLS

GOLDEN = Path(__file__).with_name("routes_explain.txt")
"""Output of `routes explain` for the sample requests. `UPDATE_GOLDEN=1` in the environment writes it again."""
CONFIG = """
[[routes]]
name = "data team"
when = { header = { x-team = "data-*" } }
targets = ["gemini/gemini-2.5-pro"]

[[routes]]
name = "batch jobs"
when = { key = ["ci", "bot-*"] }
targets = ["groq/llama-3.3-70b-versatile", "haiku"]

[[routes]]
name = "researchers"
when = { team = "research" }
targets = ["gemini/gemini-2.5-pro"]

[[routes]]
name = "legacy project"
when = { project = "legacy" }
targets = ["default"]

[[routes]]
name = "search"
when = { web_search = true }
targets = ["gemini/gemini-2.0-flash"]

[[routes]]
name = "background"
when = { background = true }
targets = ["haiku"]

[[routes]]
name = "explore"
when = { subagent = true, tier = ["opus", "fable"] }
targets = ["sonnet"]

[[routes]]
name = "pictures"
when = { images = true, model = "claude-haiku-*" }
targets = ["gemini/gemini-2.5-pro", "openai/gpt-4.1"]

[[routes]]
name = "documents"
when = { pdfs = true }
targets = ["gemini/gemini-2.5-pro"]

[[routes]]
name = "long context"
when = { input_above = 1000 }
targets = ["gemini/gemini-2.5-pro", "openai/gpt-4.1"]

[[routes]]
name = "reasoning"
when = { thinking = true, tier = "opus" }
targets = ["openai/o3"]

[[routes]]
name = "night"
when = { time = "22:00-06:00", weekdays = ["fri", "sat"], time_zone = "Europe/Berlin" }
targets = ["groq/llama-3.3-70b-versatile", "openai/gpt-4.1-mini"]
balance = "latency"

[[routes]]
name = "trial"
when = { share = 50, tier = "sonnet" }
targets = ["openai/gpt-4.1", "groq/llama-3.3-70b-versatile"]
balance = "weighted"
weights = [3, 1]
"""
KEYS = {"OPENAI_API_KEY": "sk-test", "GEMINI_API_KEY": "AIza-test", "GROQ_API_KEY": "gsk-test"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}}
AGENT = ("--header", "x-claude-code-agent-id: a1")
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
NOON, NIGHT = "2026-11-20T12:00+00:00", "2026-11-20T23:30+00:00"
OPUS, SONNET, HAIKU = ({"model": f"claude-{tier}-5-5"} for tier in ("opus", "sonnet", "haiku"))
LONG = {"messages": [{"role": "user", "content": "word " * 1_200}]}
SAMPLES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    (OPUS, ()),
    (OPUS, ("--header", "X-Team: data-7")),
    (OPUS, ("--header", "x-team: web", "--key", "ci")),
    (SONNET, ("--key", "bot-9", "--header", "x-project: legacy")),
    (SONNET, ("--header", "x-project: legacy")),
    (SONNET, ("--key", "alice", "--team", "research")),
    (HAIKU | {"tools": [SEARCH]}, ()),
    (HAIKU, tuple(word for name, value in CLAUDE_CODE.items() for word in ("--header", f"{name}: {value}"))),
    (HAIKU | {"tools": TOOLS}, ("--header", "x-claude-code-session-id: s-1")),
    (OPUS | {"tools": TOOLS}, AGENT),
    (HAIKU | {"tools": TOOLS}, AGENT),
    (HAIKU | {"messages": [{"role": "user", "content": [IMAGE]}]}, ()),
    (OPUS | {"messages": [{"role": "user", "content": [IMAGE]}]}, ()),
    (OPUS | {"messages": [{"role": "user", "content": [PDF]}]}, ()),
    (OPUS | LONG, ()),
    (OPUS | {"thinking": {"type": "adaptive"}}, ()),
    (HAIKU | {"thinking": {"type": "adaptive"}}, ()),
    (HAIKU, ("--at", NIGHT)),
    (SONNET | {"tools": TOOLS}, ("--header", "x-claude-code-session-id: s-3")),
    (SONNET | {"tools": TOOLS}, ("--header", "x-claude-code-session-id: s-2")),
    ({"model": "openai/gpt-4.1"}, ()),
]

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command in this process and returns its standard output."""
    (tmp_path / "anthropic-proxy.toml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.endswith(("_KEY", "_URL", "_MODEL"))]:
        monkeypatch.delenv(name)
    for name, value in {**KEYS, "HOME": str(tmp_path), "ANTHROPIC_PROXY_CONFIG": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)

    def run_here(*words: str, request: str = "") -> str:
        (tmp_path / "request.json").write_text(request, encoding="utf-8")
        with suppress(SystemExit):
            commands(list(words), exit_on_error=False, print_error=False, result_action="return_value")
        return capsys.readouterr().out

    return run_here


def body(fields: dict[str, Any]) -> str:
    return json.dumps({"max_tokens": 100, "messages": [{"role": "user", "content": "hello"}], **fields})


def test_sample_requests_are_explained(run: Run) -> None:
    shown = []
    for fields, words in SAMPLES:
        moment = () if "--at" in words else ("--at", NOON)
        sample = {name: value for name, value in fields.items() if name != "messages" or "word" not in str(value)}
        output = run("routes", "explain", "request.json", *words, *moment, request=body(fields))
        shown.append(f"# {json.dumps(sample)} {' '.join(words)}\n{output}")
    text = "\n".join(shown)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_a_program_reads_the_checks_as_json(run: Run) -> None:
    report = json.loads(run("routes", "explain", "request.json", "--key", "ci", "--json", request=body(OPUS)))
    assert report == {
        "requested_model": "claude-opus-5-5",
        "route": "batch jobs",
        "rule": 'route "batch jobs" (anthropic-proxy.toml line 7), and its prefix names the provider: groq',
        "targets": ["groq/llama-3.3-70b-versatile", "openai/gpt-4.1-mini"],
        "checks": [
            {
                "route": "data team",
                "origin": "anthropic-proxy.toml line 2",
                "matches": False,
                "failed": "needs header x-team data-*, but the header is absent",
                "met": [],
            },
            {
                "route": "batch jobs",
                "origin": "anthropic-proxy.toml line 7",
                "matches": True,
                "failed": None,
                "met": ["key ci or bot-*: the key is ci"],
            },
        ],
        "error": None,
    }


def test_explain_names_the_route_and_the_nearest_routes_that_failed(run: Run) -> None:
    shown = run("explain", "request.json", request=body({**OPUS, **LONG}))
    assert shown.partition("\n\n")[0] == (
        "  claude-opus-5-5 → gemini/gemini-2.5-pro\n"
        '    rule       route "long context" (anthropic-proxy.toml line 47), and its prefix names the provider: '
        "gemini\n"
        "    conditions input above 1,000 tokens: the input has about 1,120 tokens\n"
        "    no match   4 earlier routes. All of them:  anthropic-proxy routes explain\n"
        '    no match   "search" needs web search, but the request has no web search (anthropic-proxy.toml line 22)\n'
        '    no match   "background" needs a background call, but the request has no background call '
        "(anthropic-proxy.toml line 27)\n"
        '    no match   "explore" needs a sub-agent, but the request has no sub-agent (anthropic-proxy.toml line 32)\n'
        '    no match   "pictures" needs model claude-haiku-*, but the model is claude-opus-5-5 '
        "(anthropic-proxy.toml line 37)\n"
        '    no match   "documents" needs PDFs, but the request has no PDFs (anthropic-proxy.toml line 42)\n'
        "    attempt 1  POST https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-pro:generateContent\n"
        '    attempt 2  openai/gpt-4.1, if attempt 1 fails (targets of route "long context", '
        "anthropic-proxy.toml line 47)"
    )


def test_routes_are_listed_for_a_program(run: Run) -> None:
    rows = [line.split("\t") for line in run("routes", "list").splitlines()]
    assert rows[0] == ["Route", "Conditions", "Targets", "Source"]
    assert rows[7] == ["explore", "tier opus or fable, a sub-agent", "sonnet", "anthropic-proxy.toml line 32"]
    assert rows[12] == [
        "night",
        "time 22:00-06:00 on fri or sat (Europe/Berlin)",
        "groq/llama-3.3-70b-versatile, openai/gpt-4.1-mini: lowest latency first, a session keeps its target",
        "anthropic-proxy.toml line 57",
    ]
    assert rows[13][2] == "openai/gpt-4.1 (3), groq/llama-3.3-70b-versatile (1): by weight, a session keeps its target"
    assert json.loads(run("routes", "list", "--json"))["routes"][12]["weights"] == [3.0, 1.0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--header", "x-team"), "--header is \"x-team\". Use a name and a value, such as 'x-project: web'."),
        (("--at", "noon"), '--at is "noon". Use a date and time, such as 2026-11-20T23:30.'),
    ],
)
def test_a_wrong_option_of_the_explanation_is_reported(run: Run, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        run("routes", "explain", "request.json", *words, request=body(OPUS))
