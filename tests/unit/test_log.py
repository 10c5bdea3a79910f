"""Content and readers of the log. It never blocks a request or the server."""

import io
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
from datetime import datetime
from pathlib import Path
from typing import Literal, TextIO
from urllib.parse import quote

import msgspec
import pytest

from anthropic_proxy.engine.hooks import LogLevel
from anthropic_proxy.engine.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.engine.platforms.program import find_program_command
from anthropic_proxy.engine.trace_context import TraceContext
from anthropic_proxy.errors import PACKAGE
from anthropic_proxy.gateway.telemetry.log import BackgroundWriter, Log
from anthropic_proxy.gateway.telemetry.log.columns import wrap_text
from anthropic_proxy.plugins import CallCheck, Client, Receipt, UpstreamAttempt
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.paths import ROOT
from tests.support.threads import no_new_threads
from tests.support.waiting import WAIT_SECONDS

GROQ = {"provider": "groq", "prefix": "groq", "model": "llama"}


def receipt(**fields: object) -> Receipt:
    given = {"request_id": "req_1", "client": Client(), "started_at": 0.0, "status": 200, **fields}
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


# Content


@pytest.mark.parametrize(
    ("level", "kept"),
    [
        ("debug", ["/debug", "/info", "/v1/messages 200", "/v1/messages 429", "/v1/messages 502", "start", "beware"]),
        ("info", ["/info", "/v1/messages 200", "/v1/messages 429", "/v1/messages 502", "start", "beware"]),
        ("warning", ["/v1/messages 429", "/v1/messages 502", "beware"]),
        ("error", ["/v1/messages 502"]),
    ],
)
def test_a_level_leaves_out_what_weighs_less(level: LogLevel, kept: list[str]) -> None:
    stream = io.StringIO()
    log = Log(stream, level=level)
    log.write_request(receipt(method="GET", path="/debug"), "debug")
    log.write_request(receipt(method="GET", path="/info"))
    for status in (200, 429, 502):
        log.write_exchange(receipt(status=status))
    log.write_line("start")
    log.write_line("beware", level="warning")
    output = stream.getvalue()
    everything = ["/debug", "/info", "/v1/messages 200", "/v1/messages 429", "/v1/messages 502", "start", "beware"]
    assert [words for words in everything if words in output] == kept


def test_a_client_that_left_before_the_reply_is_no_200() -> None:
    stream = io.StringIO()
    log = Log(stream)
    log.write_exchange(receipt(status=0, outcome="cancelled"))
    log.write_exchange(receipt(status=200, outcome="cancelled"))
    before, _, within, _ = stream.getvalue().splitlines()
    assert "POST /v1/messages – " in before
    assert "client left before the reply" in before
    assert "POST /v1/messages 200" in within
    assert within.split("–")[1].startswith(" client left ")


def test_the_changed_fields_of_a_model_are_named_once_in_one_line() -> None:
    """A line with a sign for each field would look like a list of faults."""
    stream = io.StringIO()
    log = Log(stream)
    tools = [FidelityNote("approximated", f"tools.tool_{number}", f"pattern {number}") for number in range(2)]
    notes = [
        FidelityNote("approximated", "max_tokens", "64000 → 32768, the model's limit"),
        FidelityNote("emulated", "stop_sequences", "matched by the proxy"),
        FidelityNote("kept", "thinking", "unchanged"),
        *tools,
        FidelityNote("dropped", "top_k", "groq has no such setting"),
        FidelityNote("dropped", "messages[3].content[1]", "no such picture"),
    ]

    def write(given: list[FidelityNote], **fields: object) -> list[str]:
        log.write_exchange(receipt(fidelity=FidelityReport(notes=given), **{"request_id": "req_9", **GROQ, **fields}))
        lines = stream.getvalue().splitlines()
        stream.truncate(0)
        stream.seek(0)
        return [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in lines[:-2]]

    assert write(notes) == [
        "Adapted for groq/llama: max_tokens, stop_sequences and tools. Left out: top_k and messages[3].content[1]. "
        "Why:  anthropic-proxy explain req_9"
    ]
    again = [
        FidelityNote("approximated", "max_tokens", "50000 → 32768, the model's limit"),
        FidelityNote("dropped", "messages[7].content[0]", "no such picture"),
    ]
    assert write(again) == []
    assert write([*again, FidelityNote("dropped", "seed", "no such setting")]) == [
        "Left out for groq/llama: seed. Why:  anthropic-proxy explain req_9"
    ]
    assert write(again[:1], model="other") == [
        "Adapted for groq/other: max_tokens. Why:  anthropic-proxy explain req_9"
    ]


def test_each_cause_of_a_dropped_field_is_logged_once_with_its_reason_at_debug() -> None:
    stream = io.StringIO()
    log = Log(stream, level="debug")
    losses = [
        FidelityNote("dropped", "top_k", "groq has no such setting"),
        FidelityNote("approximated", "max_tokens", "64000 → 32768, the model's limit"),
        FidelityNote("dropped", "messages[3].content[1]", "no such picture"),
    ]
    log.write_exchange(receipt(provider="groq", prefix="groq", fidelity=FidelityReport(notes=losses)))
    output = stream.getvalue()
    assert re.search(r"^\d\d:\d\d:\d\d  ✕ groq: top_k dropped: groq has no such setting$", output, re.MULTILINE)
    assert "~ groq: max_tokens approximated: 64000 → 32768, the model's limit\n" in output
    again = [
        FidelityNote("approximated", "max_tokens", "50000 → 32768, the model's limit"),
        FidelityNote("dropped", "messages[7].content[0]", "no such picture"),
    ]
    log.write_exchange(receipt(provider="groq", prefix="groq", fidelity=FidelityReport(notes=again)))
    assert stream.getvalue().count("max_tokens") == 1
    assert stream.getvalue().count("no such picture") == 1
    log.write_exchange(receipt(provider="xai", prefix="xai", fidelity=FidelityReport(notes=losses[:1])))
    assert "✕ xai: top_k dropped" in stream.getvalue()


def test_tools_that_lose_the_same_are_one_cause() -> None:
    stream = io.StringIO()
    names = [f"tools.tool_{number}" for number in range(30)]
    notes = [FidelityNote("approximated", name, "no pattern") for name in names]
    log = Log(stream, level="debug")
    log.write_exchange(receipt(provider="groq", prefix="groq", fidelity=FidelityReport(notes=notes)))
    assert stream.getvalue().count("no pattern") == 1


async def test_the_beginning_of_a_page_that_came_for_an_error_stands_with_the_failure() -> None:
    page = b"<html><title>502 Bad Gateway</title>\nkey sk-proj-0123456789abcdef</html>"
    proxy = ProxyHarness(lambda *_: FakeResponse(502, page), OPENAI_API_KEY="sk-proj-0123456789abcdef")
    sink = await proxy.post()
    assert "Bad Gateway" not in sink.error.message
    *_, last = proxy.log.getvalue().splitlines()
    assert last.strip().startswith("openai answered: <html><title>502 Bad Gateway")
    assert "0123456789" not in last


def test_a_new_day_begins_with_its_date() -> None:
    screen = Screen()
    log, noon = Log(screen), datetime(2026, 11, 25, 12).timestamp()
    for hours in (0, 1, 24, 25, 14 * 24):
        log.write_request(receipt(method="GET", path="/v1/models", started_at=noon + hours * 3_600))
    log.flush()
    lines = [line[:14] for line in screen.getvalue().splitlines() if line[:2] not in ("12", "13")]
    assert (lines, len(screen.getvalue().splitlines())) == (["Thu 26 Nov 202", "Wed 9 Dec 2026"], 7)
    encoded = Screen()
    log = Log(encoded, "json")
    for hours in (0, 24):
        log.write_exchange(receipt(started_at=noon + hours * 3_600))
    log.flush()
    assert [line[:1] for line in encoded.getvalue().splitlines()] == ["{", "{"]


def test_a_long_path_is_cut_and_cannot_write_lines_of_its_own() -> None:
    stream = io.StringIO()
    Log(stream).write_request(receipt(method="GET", path="/\n\x1b[31m" + "x" * 60_000, status=404))
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
def test_colors_are_for_terminals_and_on_request(
    terminal: bool, form: str, wanted: bool | None, coloured: bool
) -> None:
    stream = Screen(terminal=terminal)
    Log(stream, form, color=wanted).write_line("start", "title")  # type: ignore[arg-type]
    assert ("\x1b[" in stream.getvalue()) is coloured


def test_without_unicode_signs_are_letters() -> None:
    stream = Screen("iso-8859-1")
    log = Log(stream)
    log.write_line("  ! ✓ ✕ a → b … – wow!")
    assert stream.getvalue() == "  !! ok xx a -> b ... - wow!\n"


def test_a_warning_with_the_words_of_a_stranger_is_one_line() -> None:
    """Such as the description of an error, which a browser brings from the identity provider."""
    stream = io.StringIO()
    Log(stream, "plain").write_warning("Refused: x\n! all is well \x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}")
    assert stream.getvalue() == "! Refused: x\\n! all is well \\x1b[31m\\u202e\n"


def test_json_is_one_object_a_line_with_its_level() -> None:
    stream = io.StringIO()
    log = Log(stream, "json")
    log.write_line("  ready: openai ")
    log.write_line("")
    log.write_once("a thing")
    log.write_exchange(receipt(status=529, requested_model="claude-x"))
    log.write_request(receipt(status=404, path="/x"))
    try:
        int("broken")
    except ValueError:
        log.write_traceback("req_9")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["level"] for line in lines] == ["info", "info", "error", "warning", "error"]
    assert lines[0]["message"] == "ready: openai"
    assert lines[2]["requested_model"] == "claude-x"
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
        log.write_line(f"line {number}")
    log.flush()
    with reading, writing:
        assert [reading.readline() for _ in range(100)] == [f"line {number}\n" for number in range(100)]


def test_a_blocked_reader_blocks_no_writer_and_receives_the_count_of_dropped_lines() -> None:
    reading, writing = pipe()
    log = Log(writing, max_queued=50)
    text = "x" * 1000
    written = 3_000
    for _ in range(written):
        log.write_line(text)
    lines: list[str] = []
    thread = threading.Thread(target=lambda: lines.extend(reading))
    thread.start()
    log.flush()
    log.write_line("the end")
    log.flush()
    writing.close()
    thread.join(WAIT_SECONDS)
    reading.close()
    kept = sum(line == f"{text}\n" for line in lines)
    reported = [int(line.split()[0]) for line in lines if "were dropped" in line]
    assert 0 < kept < written
    assert kept + sum(reported) == written
    assert lines[-1] == "the end\n" or "were dropped" in lines[-1]


def test_a_closed_terminal_ends_nothing() -> None:
    program = (
        "from anthropic_proxy.gateway.telemetry.log import Log\nlog = Log()\n"
        "for _ in range(2): log.write_line('nobody'); log.flush()\nprint('the end')\n"
    )
    reading, writing = pipe()
    reading.close()
    ended = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=WAIT_SECONDS,
    )
    writing.close()
    assert (ended.returncode, ended.stdout) == (0, "the end\n")


def test_the_last_lines_of_a_program_are_written_although_its_output_was_never_read() -> None:
    program = (
        "from anthropic_proxy.gateway.telemetry.log import Log\nlog = Log()\n"
        "for _ in range({}): log.write_line('last words')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program.format(1)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=WAIT_SECONDS,
    )
    assert ended.stderr == "last words\n"
    with subprocess.Popen([sys.executable, "-c", program.format(20_000)], stderr=subprocess.PIPE, cwd=ROOT) as unread:
        assert unread.wait(WAIT_SECONDS) == 0


def test_entries_wait_while_the_system_has_no_thread_left(tmp_path: Path) -> None:
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    writer = _new_writer(descriptor)
    with no_new_threads():
        writer.enqueue("one\n")
    assert file.read_text() == ""
    writer.enqueue("two\n")
    writer.flush()
    os.close(descriptor)
    assert file.read_text() == "one\ntwo\n"


def _new_writer(descriptor: int) -> BackgroundWriter:
    return BackgroundWriter(descriptor, str.encode, str)


# The width of a terminal

SHORT = "groq: 12,000 tokens/minute"
LONG = (
    "openai: Incorrect API key provided: sk-…7890. You can find your API key at https://platform.example/account. "
    "The key comes from OPENAI_API_KEY in the environment."
)


def written(columns: int | None, *, has_ledger: bool = True, **fields: object) -> list[str]:
    stream = io.StringIO()
    given: dict[str, object] = {
        "request_id": "req_0123456789abcdefghijklmn",
        "requested_model": "claude-haiku-4-5",
        "provider": "google",
        "prefix": "gemini",
        "model": "gemini-2.5-flash",
        "message_count": 2,
        "input_tokens": 21_300,
        "first_token_seconds": 0.03,
        "duration_seconds": 0.3,
        **fields,
    }
    Log(stream, columns=columns, has_ledger=has_ledger).write_exchange(receipt(**given))
    return [line[10:] for line in stream.getvalue().splitlines()]


MODELS, SENT, NUMBERS = (
    "claude-haiku-4-5 → gemini/gemini-2.5-flash",
    "0 tools 2 msgs",
    "in 21.3k out 0  first 0.03s total 0.30s",
)


@pytest.mark.parametrize(
    ("columns", "second"),
    [
        (None, f"{MODELS}  {SENT}  {NUMBERS}"),
        (130, f"{MODELS}  {SENT}  {NUMBERS}"),
        (109, f"{MODELS}  {SENT}  {NUMBERS}"),
        (107, f"{MODELS}  {NUMBERS}"),
    ],
)
def test_the_numbers_of_tools_and_messages_are_left_out_first(columns: int | None, second: str) -> None:
    first, other = written(columns)
    assert other == second
    assert first.startswith("POST /v1/messages 200")
    assert ("req_" in first) == (columns is None or columns >= 113)
    assert len(first) + 10 <= (columns or 200)


def test_tokens_and_times_that_do_not_fit_stand_in_the_first_line() -> None:
    assert written(90) == [f"POST /v1/messages 200{' ' * 18}{NUMBERS}", f"{MODELS}  {SENT}"]
    assert written(80) == [f"POST /v1/messages 200{' ' * 10}{NUMBERS}", f"{MODELS}  {SENT}"]
    assert written(80, model="Qwen/Qwen3-Coder-30B-A3B-Instruct") == [
        f"POST /v1/messages 200{' ' * 10}{NUMBERS}",
        "claude-haiku-4-5 → gemini/Qwen/Qwen3-Coder-30B-A3B-Instruct",
    ]
    assert written(60) == ["POST /v1/messages 200", MODELS, NUMBERS]


def test_a_chinese_character_has_two_columns() -> None:
    assert written(80, prefix="qwen", model="通义千问编程助手大模型增强版本") == [
        f"POST /v1/messages 200{' ' * 10}{NUMBERS}",
        "claude-haiku-4-5 → qwen/通义千问编程助手大模型增强版本  0 tools 2 msgs",
    ]
    assert written(70, prefix="qwen", model="通义千问编程助手大模型增强版本")[1:] == [
        "claude-haiku-4-5 → qwen/通义千问编程助手大模型增强版本",
        NUMBERS,
    ]
    assert written(
        50, has_ledger=False, status=402, outcome="error", error="账户余额不足，请先充值，然后重试。谢谢您的支持！"
    )[4:] == [
        "✕ 账户余额不足，请先充值，然后重试。谢谢",
        "  您的支持！",
    ]


def test_a_route_is_named_in_a_narrow_terminal_too() -> None:
    assert written(80, route="think") == [f"POST /v1/messages 200{' ' * 10}{NUMBERS}", f"{MODELS}  route think"]
    long = "Qwen/Qwen3-Coder-30B-A3B-Instruct"
    assert written(80, route="think", model=long)[1:] == [
        f"claude-haiku-4-5 → gemini/{long}",
        f"{NUMBERS}  route think",
    ]
    assert written(97, route="think") == [f"POST /v1/messages 200{' ' * 18}route think", f"{MODELS}  {NUMBERS}"]


def test_verdicts_about_tool_calls_are_in_the_line_of_their_request() -> None:
    passed = [CallCheck("c1", "Bash", "not_flagged"), CallCheck("c2", "Read", "harmless", kind="rule")]
    flagged = CallCheck("c3", "Bash\x1b[2J", "flagged", "Deletes data.")
    late = [CallCheck("c4", "WebFetch", "unavailable", "timeout", kind="timeout")] * 5
    assert written(None, checks=passed)[1:] == [f"{MODELS}  {SENT}  {NUMBERS}  1 not flagged, 1 harmless"]
    assert written(130, checks=[flagged, *late, *passed]) == [
        f"POST /v1/messages 200{' ' * 18}✕ flagged: Bash\\x1b[2J; ! unavailable: WebFetch (timeout)",
        f"{MODELS}  {SENT}  {NUMBERS}",
        "1 flagged, 5 unavailable, 1 not flagged, 1 harmless",
    ]
    remedy = "the earlier calls are too long for a check; compact or clear the conversation"
    long = [CallCheck(call, "Bash", "unavailable", remedy, kind="too large") for call in ("c5", "c6")]
    assert written(None, checks=[*long, late[0]])[2] == f"! unavailable: Bash, WebFetch ({remedy}, timeout)"
    own = {"kind": "auto_mode_check", "parent": "req_0"}
    for check, text in (
        (late[0], "WebFetch: unavailable"),
        (flagged, "Bash\\x1b[2J: flagged"),
        (passed[0], "Bash: not flagged"),
    ):
        assert written(None, checks=[check], **own)[1] == f"{MODELS}  {SENT}  {NUMBERS}  check of {text}"
    assert written(None, **own)[1] == f"{MODELS}  {SENT}  {NUMBERS}  check of a tool call"


def test_tokens_and_times_have_a_line_of_their_own_after_an_incident() -> None:
    assert written(80, outcome="max_tokens") == [
        f"POST /v1/messages 200{' ' * 18}! truncated (max_tokens)",
        f"{MODELS}  {SENT}",
        NUMBERS,
    ]


@pytest.mark.parametrize("columns", [80, 113])
def test_the_command_for_the_reason_of_a_retry_is_shown_where_the_id_does_not_fit(columns: int) -> None:
    first, *further = written(columns, failed_attempts=["groq 429"])
    if columns == 80:
        assert first == f"POST /v1/messages 200{' ' * 18}↻ groq 429, then gemini"
        assert further == [f"{MODELS}  {SENT}", NUMBERS, "Why:  anthropic-proxy explain req_0123456789abcdefghijklmn"]
    else:
        assert first.endswith("  req_0123456789abcdefghijklmn")
        assert further == [f"{MODELS}  {SENT}  {NUMBERS}"]


def test_a_failed_request_has_the_time_of_a_retry_and_the_command_for_its_reason() -> None:
    failed = {"status": 429, "outcome": "error", "error": SHORT, "retry_after_seconds": 12}
    first, *further = written(80, **failed)
    assert first == f"POST /v1/messages 429{' ' * 18}✕ {SHORT}"
    reason = "Why:  anthropic-proxy explain req_0123456789abcdefghijklmn"
    assert further == [f"{MODELS}  {SENT}", NUMBERS, "Retry in 12 s.", reason]
    first, *further = written(140, **failed)
    assert first.endswith("  req_0123456789abcdefghijklmn")
    assert further == [f"{MODELS}  {SENT}  {NUMBERS}", "Retry in 12 s."]
    assert written(None, **failed)[1:] == [f"{MODELS}  {SENT}  {NUMBERS}", "Retry in 12 s."]
    assert written(80, **failed, has_ledger=False)[-1] == "Retry in 12 s."
    assert written(80, **{**failed, "retry_after_seconds": None})[-2:] == [NUMBERS, reason]


def test_a_limit_of_the_proxy_states_the_time_of_a_retry_only_in_its_message() -> None:
    error = "The key 'ci' has reached its limit of 2 requests per minute. Try again in 41 s."
    failed = {"status": 429, "outcome": "error", "error": error, "retry_after_seconds": 41}
    assert "Retry in" not in "".join(written(80, provider="", **failed))


def test_a_request_that_no_model_got_has_no_command() -> None:
    lines = written(80, status=400, outcome="error", error=SHORT, provider="", prefix="", model="")
    assert not any("explain" in line for line in lines)


def test_no_line_has_the_command_for_stored_requests_without_a_ledger() -> None:
    first, *further = written(80, has_ledger=False, failed_attempts=["groq 429"])
    assert first == f"POST /v1/messages 200{' ' * 18}↻ groq 429, then gemini"
    assert further == [f"{MODELS}  {SENT}", NUMBERS]
    notes = FidelityReport(notes=[FidelityNote("dropped", "seed", "no such setting")])
    assert written(None, has_ledger=False, fidelity=notes)[0] == "Left out for gemini/gemini-2.5-flash: seed."


@pytest.mark.parametrize(
    ("first", "total", "shown"),
    [
        (0.149, 0.15, "first 0.15s total 0.15s"),
        (0.83, 12.4, "first 0.83s total 12.4s"),
        (12.44, 12.44, "first 12.4s total 12.4s"),
    ],
)
def test_the_first_token_never_looks_later_than_the_end(first: float, total: float, shown: str) -> None:
    assert written(None, first_token_seconds=first, duration_seconds=total)[1].endswith(f"  {shown}")


def test_a_command_in_an_error_is_not_divided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / PACKAGE
    program.touch()
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", "")
    find_program_command.cache_clear()
    error = "Not installed. Install it:  anthropic-proxy add dashboard"
    failed = {"status": 404, "outcome": "error", "error": error, "prefix": "groq", "model": "llama"}
    stream = io.StringIO()
    Log(stream, columns=60).write_exchange(receipt(request_id="req_5", **failed))
    find_program_command.cache_clear()
    assert [line.strip() for line in stream.getvalue().splitlines()][-4:] == [
        "✕ Not installed. Install it:",
        f"{program} add dashboard",
        "Why:",
        f"{program} explain req_5",
    ]


@pytest.mark.parametrize(("columns", "indent"), [(44, 10), (40, 6), (34, 0), (20, 10)])
def test_a_long_command_begins_further_left_if_it_then_fits(columns: int, indent: int) -> None:
    assert wrap_text(f"{' ' * 10}Why:  {'x' * 34}", columns) == [f"{' ' * 10}Why:", f"{' ' * indent}{'x' * 34}"]


def test_signs_and_commands_of_the_log_are_in_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [PACKAGE])
    stream = Screen(terminal=True)
    log = Log(stream, columns=60)
    failed = {"status": 429, "outcome": "error", "prefix": "groq", "model": "llama", "retry_after_seconds": 12}
    error = "groq: slow down, or install:  anthropic-proxy add x"
    log.write_exchange(receipt(request_id="req_5", error=error, **failed))
    log.write_exchange(receipt(outcome="max_tokens"))
    log.write_warning("No charts. Install them:  anthropic-proxy add dashboard")
    log.write_warning("usage has no option --bye. Did you mean:  --by")
    log.write_warning('LOG_FORMAT is "jsn". Set in .env, line 2. Did you mean:  LOG_FORMAT=json')
    log.write_warning('It is in anthropic-proxy.toml, line 2. Did you mean:  wire = "chat"')
    log.write_warning("Another model for haiku:  SMALL_MODEL=PREFIX/MODEL in .env")
    red, yellow, cyan, end = "\x1b[1;31m", "\x1b[33m", "\x1b[36m", "\x1b[0m"
    program = find_program_command()
    text = stream.getvalue()
    assert f"{red}✕{end} groq: slow down, or install:" in text
    for command in ("add x", "explain req_5", "add dashboard"):
        assert f"{cyan}{program} {command}{end}\n" in text
    assert f"{yellow}!{end} truncated (max_tokens)" in text
    assert f"{cyan}--by{end}\n" in text
    assert f"{cyan}LOG_FORMAT=json{end}\n" in text
    assert f'{cyan}wire = "chat"{end}\n' in text
    assert f"{cyan}SMALL_MODEL=PREFIX/MODEL{end} in .env\n" in text


def test_a_short_error_stands_in_the_first_line() -> None:
    gap = " " * 18
    assert written(None, status=429, outcome="error", error=SHORT)[0] == (
        f"POST /v1/messages 429{gap}✕ {SHORT}        req_0123456789abcdefghijklmn"
    )
    assert written(80, status=429, outcome="error", error=SHORT)[0] == f"POST /v1/messages 429{gap}✕ {SHORT}"


@pytest.mark.parametrize(
    ("columns", "second"),
    [
        (None, f"{MODELS}  {SENT}  {NUMBERS}"),
        (130, f"{MODELS}  {SENT}  {NUMBERS}  $0.043"),
        (109, f"{MODELS}  {NUMBERS}  $0.043"),
        (101, f"{MODELS}  {NUMBERS}  $0.043"),
        (100, f"{MODELS}  {NUMBERS}"),
        (80, f"{MODELS}  {SENT}"),
    ],
)
def test_the_cost_of_a_request_is_shown_where_it_fits(columns: int | None, second: str) -> None:
    log = Log(io.StringIO(), columns=columns)
    request = receipt(
        requested_model="claude-haiku-4-5",
        prefix="gemini",
        model="gemini-2.5-flash",
        message_count=2,
        input_tokens=21_300,
        first_token_seconds=0.03,
        duration_seconds=0.3,
    )
    assert log.format_exchange(request, "$0.043").splitlines()[1].strip() == second


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (80, ["claude-opus-5-5 → vllm/Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"]),
        (60, ["claude-opus-5-5 →", "vllm/Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"]),
        (50, ["claude-opus-5-5 →", "vllm/Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"]),
        (30, ["claude-opus-5-5 →", "vllm/Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"]),
    ],
)
def test_a_long_model_name_is_not_divided_in_a_narrow_terminal(columns: int, lines: list[str]) -> None:
    stream = io.StringIO()
    model = "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"
    Log(stream, columns=columns).write_exchange(receipt(requested_model="claude-opus-5-5", prefix="vllm", model=model))
    _, *second = stream.getvalue().splitlines()
    assert [line.strip() for line in second[: len(lines)]] == lines
    if columns >= len(lines[-1]):
        assert max(map(len, second)) <= columns


@pytest.mark.parametrize("columns", [40, 80, 100, 130, None])
def test_a_long_error_loses_no_word(columns: int | None) -> None:
    first, second, *further = written(columns, has_ledger=False, status=401, outcome="error", error=LONG)
    assert second.startswith("claude-haiku-4-5 →")
    if columns == 40:
        assert further.pop(0) == "gemini/gemini-2.5-flash"
    if columns is not None and columns < 100:
        assert further.pop(0) == NUMBERS
    assert " ".join(line.strip() for line in further) == f"✕ {LONG}"
    if columns is None or columns >= 113:
        assert first.endswith("  req_0123456789abcdefghijklmn")
    else:
        assert first == "POST /v1/messages 401"
    assert all(len(line) + 10 <= max(columns or 1_000, 50) for line in further)


@pytest.mark.parametrize(("status", "shown"), [(503, " (groq sent 503)"), (529, ""), (200, ""), (0, "")])
def test_an_error_has_the_status_of_the_provider_if_the_client_got_another_one(status: int, shown: str) -> None:
    attempt = UpstreamAttempt(provider="groq", model="m", offset_seconds=0.0, status=status, error_type="x")
    failed = receipt(status=529, prefix="groq", outcome="error", error="groq: overloaded", attempts=[attempt])
    stream = io.StringIO()
    Log(stream).write_exchange(failed)
    assert f"✕ groq: overloaded{shown}  " in stream.getvalue()


@pytest.mark.parametrize("columns", [50, None])
def test_a_note_and_a_warning_break_between_words(columns: int | None) -> None:
    stream = io.StringIO()
    log = Log(stream, columns=columns)
    log.write_once(LONG)
    log.write_warning(LONG)
    once, warning = re.split(r"\n(?=!)", stream.getvalue().rstrip("\n"))
    assert once[10:].split(f"\n{' ' * 10}") == (textwrap.wrap(LONG, 40) if columns else [LONG])
    assert warning[2:].split("\n  ") == (textwrap.wrap(LONG, 48) if columns else [LONG])


def test_a_request_that_is_no_exchange_keeps_its_remedy_too() -> None:
    stream = io.StringIO()
    Log(stream, columns=80).write_request(receipt(method="GET", path="/v1/x", status=403, outcome="error", error=LONG))
    first, *further = stream.getvalue().splitlines()
    assert first.endswith("GET /v1/x 403")
    assert " ".join(line.strip() for line in further) == f"✕ {LONG}"


def test_the_target_is_coloured_on_a_terminal() -> None:
    screen = Screen(terminal=True)
    Log(screen, columns=130).write_exchange(
        receipt(requested_model="claude-x", prefix="gemini", model="g", duration_seconds=1.0)
    )
    assert "claude-x → \x1b[36mgemini/g\x1b[0m  0 tools" in screen.getvalue()


def test_json_has_a_readable_time_on_every_line() -> None:
    stream = io.StringIO()
    log = Log(stream, "json")
    log.write_exchange(receipt(started_at=1_795_208_672.1204))
    log.write_line("beware")
    log.write_json_event("start", ready=["openai"])
    first, *others = map(json.loads, stream.getvalue().splitlines())
    assert first["time"] == first["started_at"] == "2026-11-20T21:04:32.120Z"
    assert all(line["time"].endswith("Z") for line in others)
    assert others[1]["ready"] == ["openai"]


def test_each_field_of_json_is_documented() -> None:
    stream = io.StringIO()
    log = Log(stream, "json")
    report = FidelityReport()
    report.add_notes([FidelityNote("dropped", "top_k", "not supported")])
    log.write_exchange(
        receipt(
            fidelity=report,
            attempts=[UpstreamAttempt(provider="groq", model="m", offset_seconds=0.0)],
            trace=TraceContext(trace_id="1" * 32, span_id="2" * 16),
        )
    )
    record = json.loads(stream.getvalue())
    page = (ROOT / "docs/reference/log.md").read_text("utf-8")
    documented = set(re.findall("`([a-z_0-9]+)`", page))
    assert {*record, *record["client"], *record["fidelity"], *record["fidelity"]["notes"][0]} <= documented
    assert {each.name for each in msgspec.structs.fields(UpstreamAttempt)} <= documented


# Keys of the settings


@pytest.mark.parametrize("form", ["plain", "json"])
@pytest.mark.parametrize("key", ["s3cr3t-proxy-key-1234", 'no/slash&"quote"-key', "geheim-42"])
def test_a_configured_key_is_in_no_line_wherever_a_client_puts_it(form: Literal["plain", "json"], key: str) -> None:
    stream = io.StringIO()
    log = Log(stream, form=form, secrets=[key])
    for name in (
        "path",
        "requested_model",
        "model",
        "route_reason",
        "error",
        "provider",
        "upstream_excerpt",
        "outcome",
        "method",
    ):
        for text in (key, f"/v1/models/{quote(key, safe='')}", "x" * 105 + key, f"openai/{key} -> nothing"):
            log.write_request(receipt(**{name: text}))
            log.write_exchange(receipt(**{name: text}))
    note = FidelityNote("dropped", f"tools.{key}", f"{key} takes no {key}")
    log.write_exchange(receipt(fidelity=FidelityReport(notes=[note]), failed_attempts=[f"{key} 429"]))
    log.write_line(f"a line with {key}")
    log.write_once(f"once {key}")
    log.write_warning(f"a warning with {key}")
    log.write_event_loop_error({"message": f"a trace of {key}"})
    text = stream.getvalue()
    for spelled in (key, quote(key, safe=""), json.dumps(key)[1:-1], key[:12]):
        assert spelled not in text
    assert form == "plain" or all(json.loads(line) for line in text.splitlines())
