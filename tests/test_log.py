"""What the log says, to whom, and that it never stops anybody."""

import io
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TextIO

import pytest

from anthropic_proxy.hooks import Client, Receipt
from anthropic_proxy.log import Level, Log
from anthropic_proxy.messages.notes import Note, Report
from tests.house import Answer, Town

LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")


def receipt(**fields: object) -> Receipt:
    given = {"request_id": "req_1", "client": Client(), "started": 0.0, "status": 200, **fields}
    return Receipt(**given)  # type: ignore[arg-type]


class Screen(io.StringIO):
    """A terminal, or a stream that is none, in some encoding."""

    def __init__(self, encoding: str = "utf-8", *, terminal: bool = False) -> None:
        super().__init__()
        self._encoding, self._terminal = encoding, terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._terminal


# What is said


@pytest.mark.parametrize(
    ("level", "kept"),
    [
        ("debug", ["/debug", "/info", "/v1/messages 200", "/v1/messages 429", "/v1/messages 502", "start", "beware"]),
        ("info", ["/info", "/v1/messages 200", "/v1/messages 429", "/v1/messages 502", "start", "beware"]),
        ("warning", ["/v1/messages 429", "/v1/messages 502", "beware"]),
        ("error", ["/v1/messages 502"]),
    ],
)
def test_a_level_leaves_out_what_weighs_less(level: Level, kept: list[str]) -> None:
    stream = io.StringIO()
    log = Log(stream, level=level)
    log.request(receipt(method="GET", path="/debug"), "debug")
    log.request(receipt(method="GET", path="/info"))
    for status in (200, 429, 502):
        log.exchange(receipt(status=status))
    log.line("start")
    log.line("beware", level="warning")
    said = stream.getvalue()
    everything = ["/debug", "/info", "/v1/messages 200", "/v1/messages 429", "/v1/messages 502", "start", "beware"]
    assert [words for words in everything if words in said] == kept


def test_a_client_that_left_before_the_reply_is_no_200() -> None:
    stream = io.StringIO()
    log = Log(stream)
    log.exchange(receipt(status=0, outcome="cancelled"))
    log.exchange(receipt(status=200, outcome="cancelled"))
    before, _, within, _ = stream.getvalue().splitlines()
    assert "POST /v1/messages – " in before
    assert "client left before the reply" in before
    assert "POST /v1/messages 200" in within
    assert within.split("–")[1].startswith(" client left ")


def test_each_cause_of_a_loss_is_said_once_a_run() -> None:
    stream = io.StringIO()
    log = Log(stream)
    losses = [
        Note("dropped", "top_k", "groq has no such setting"),
        Note("approximated", "max_tokens", "64000 → 32768, the model's limit"),
        Note("dropped", "messages[3].content[1]", "no such picture"),
    ]
    log.exchange(receipt(provider="groq", fidelity=Report(notes=losses)))
    said = stream.getvalue()
    assert re.search(r"^\d\d:\d\d:\d\d  ✕ groq: top_k dropped: groq has no such setting$", said, re.MULTILINE)
    assert "~ groq: max_tokens approximated: 64000 → 32768, the model's limit\n" in said
    again = [
        Note("approximated", "max_tokens", "50000 → 32768, the model's limit"),
        Note("dropped", "messages[7].content[0]", "no such picture"),
    ]
    log.exchange(receipt(provider="groq", fidelity=Report(notes=again)))
    assert stream.getvalue().count("max_tokens") == 1
    assert stream.getvalue().count("no such picture") == 1
    log.exchange(receipt(provider="xai", fidelity=Report(notes=losses[:1])))
    assert "✕ xai: top_k dropped" in stream.getvalue()


def test_tools_that_lose_the_same_are_one_cause() -> None:
    stream = io.StringIO()
    names = [f"tools.tool_{number}" for number in range(30)]
    notes = [Note("approximated", name, "no pattern") for name in names]
    Log(stream).exchange(receipt(provider="groq", fidelity=Report(notes=notes)))
    assert stream.getvalue().count("no pattern") == 1


async def test_the_beginning_of_a_page_that_came_for_an_error_stands_with_the_failure() -> None:
    page = b"<html><title>502 Bad Gateway</title>\nkey sk-proj-0123456789abcdef</html>"
    town = Town(lambda *_: Answer(502, page), OPENAI_API_KEY="sk-proj-0123456789abcdef")
    keeper = await town.ask()
    assert keeper.error is not None
    assert "Bad Gateway" not in keeper.error.message
    *_, last = town.log.getvalue().splitlines()
    assert last.strip().startswith("openai answered: <html><title>502 Bad Gateway")
    assert "0123456789" not in last


def test_a_long_path_is_cut_and_cannot_write_lines_of_its_own() -> None:
    stream = io.StringIO()
    Log(stream).request(receipt(method="GET", path="/\n\x1b[31m" + "x" * 60_000, status=404))
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert len(stream.getvalue()) < 300


# How it looks


@pytest.mark.parametrize(
    ("terminal", "form", "wanted", "coloured"),
    [
        (True, "auto", None, True),
        (False, "auto", None, False),
        (True, "auto", False, False),
        (False, "auto", True, True),
        (True, "plain", None, False),
        (True, "plain", True, False),
        (True, "json", True, False),
    ],
)
def test_colours_are_for_terminals_and_for_who_asks(
    terminal: bool, form: str, wanted: bool | None, coloured: bool
) -> None:
    stream = Screen(terminal=terminal)
    Log(stream, form, colours=wanted).line("start", "title")  # type: ignore[arg-type]
    assert ("\x1b[" in stream.getvalue()) is coloured


def test_without_unicode_signs_are_letters() -> None:
    stream = Screen("iso-8859-1")
    log = Log(stream)
    log.line("  ! ✓ ✕ a → b … – wow!")
    assert stream.getvalue() == "  !! ok xx a -> b ... - wow!\n"


def test_json_is_one_object_a_line_with_its_level() -> None:
    stream = io.StringIO()
    log = Log(stream, "json")
    log.line("  ready: openai ")
    log.line("")
    log.once("a thing")
    log.exchange(receipt(status=529, asked_model="claude-x"))
    log.request(receipt(status=404, path="/x"))
    try:
        int("broken")
    except ValueError:
        log.trace("req_9")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["level"] for line in lines] == ["info", "info", "error", "warning", "error"]
    assert lines[0]["message"] == "ready: openai"
    assert lines[2]["asked_model"] == "claude-x"
    assert lines[4]["request_id"] == "req_9"
    assert "ValueError: invalid literal" in lines[4]["trace"]


# Where it goes


def pipe() -> tuple[TextIO, TextIO]:
    reading, writing = os.pipe()
    return os.fdopen(reading, encoding="utf-8"), os.fdopen(writing, "w", encoding="utf-8")


def test_everything_is_there_after_a_flush() -> None:
    reading, writing = pipe()
    log = Log(writing)
    for number in range(100):
        log.line(f"line {number}")
    log.flush()
    with reading, writing:
        assert [reading.readline() for _ in range(100)] == [f"line {number}\n" for number in range(100)]


def test_a_reader_who_does_not_read_stops_nobody_and_is_told_what_was_lost() -> None:
    reading, writing = pipe()
    log = Log(writing, most_waiting=50)
    text = "x" * 1000
    written = 3_000
    for _ in range(written):
        log.line(text)
    lines: list[str] = []
    thread = threading.Thread(target=lambda: lines.extend(reading))
    thread.start()
    log.flush()
    log.line("the end")
    log.flush()
    writing.close()
    thread.join(10)
    reading.close()
    kept = sum(line == f"{text}\n" for line in lines)
    told = [int(line.split()[0]) for line in lines if "were lost" in line]
    assert 0 < kept < written
    assert kept + sum(told) == written
    assert lines[-1] == "the end\n" or "were lost" in lines[-1]


def test_a_closed_terminal_ends_nothing() -> None:
    reading, writing = pipe()
    reading.close()
    log = Log(writing)
    log.line("nobody")
    log.flush()
    log.line("still nobody")
    log.flush()
    writing.close()


def test_a_program_that_ends_says_its_last_words_even_where_nobody_ever_read() -> None:
    program = "from anthropic_proxy.log import Log\nlog = Log()\nfor _ in range({}): log.line('last words')\n"
    ended = subprocess.run(
        [sys.executable, "-c", program.format(1)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
        timeout=60,
    )
    assert ended.stderr == "last words\n"
    with subprocess.Popen(
        [sys.executable, "-c", program.format(20_000)], stderr=subprocess.PIPE, cwd=Path(__file__).parent.parent
    ) as unread:
        assert unread.wait(60) == 0
