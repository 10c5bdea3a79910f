"""The command `messages-conformance` and the plugin of pytest, against a small server."""

import html
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from messages_conformance.__main__ import _ended_by_signals, main
from messages_conformance.runner import Outcome, Runner, load_suite
from messages_conformance.trial import Options
from tests.support.conformance import MESSAGE, reply, serve
from tests.support.waiting import WAIT_SECONDS, wait_for

NO_STREAM = "the reply is no event stream, its content-type is application/json"
CHECKS = ("--check", "message.type", "--check", "stream.grammar", "--model", "m")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server that knows no streams."""
    with serve(lambda handler, _: reply(handler, json.dumps(MESSAGE).encode())) as address:
        yield address


def run(url: str, *words: str) -> int:
    return main([url, *CHECKS, "--quiet", *words])


def test_a_new_failure_is_red_and_shows_how_to_repeat_it(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(url) == 1
    shown = capsys.readouterr().out
    assert "\n✕ stream.grammar (MUST)\n  Rule: A stream has" in shown
    assert f'\n    curl -isSN {url}/v1/messages -H "x-api-key: $MESSAGES_API_KEY" -H \'anthropic-version: ' in shown
    assert ', "stream": true}\'\n  Reply:\n    200 application/json\n    {"id": "msg_1"' in shown
    assert "\n2 checks in " in shown
    assert shown.endswith(" s: 1 failed, 0 of them expected; 0 expected to fail passed\n")


def test_expected_failures_are_written_and_then_accepted(url: str, tmp_path: Path) -> None:
    file = tmp_path / "expected-failures.toml"
    assert run(url, "--write-expected", str(file)) == 0
    assert file.read_text("utf-8").endswith(
        '\n[failures]\n"stream.grammar" = "the reply is no event stream, its content-type is application/json"\n'
    )
    assert run(url, "--expected", str(file)) == 0


def test_reasons_stay_when_expected_failures_are_written_again(url: str, tmp_path: Path) -> None:
    file = tmp_path / "expected-failures.toml"
    file.write_text('[failures]\n"stream.grammar" = "our issue 7"\n"message.type" = "old"\n', "utf-8")
    assert run(url, "--expected", str(file), "--write-expected", str(file)) == 0
    assert file.read_text("utf-8").endswith('\n[failures]\n"stream.grammar" = "our issue 7"\n')


def test_an_expected_failure_that_passes_is_red(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "expected-failures.toml"
    file.write_text('[failures]\n"stream.grammar" = "a"\n"message.type" = "b"\n', "utf-8")
    assert run(url, "--expected", str(file)) == 1
    assert "\n✕ message.type passes: remove it from the expected failures\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[failures]\n"a.b" = "x"\n', "{file}: there is no check a.b"),
        ('[failures]\na.b = "x"\n', "{file}: a has {{'b': 'x'}} instead of a reason; ids and reasons are in quotes"),
        ("[other]\n", "{file}: it has the table [failures] only, not other"),
    ],
)
def test_a_wrong_file_of_expected_failures(
    content: str, message: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "expected-failures.toml"
    file.write_text(content, "utf-8")
    assert run(url, "--expected", str(file)) == 2
    assert capsys.readouterr().err == f"messages-conformance: {message.format(file=file)}\n"


def test_reports(url: str, tmp_path: Path) -> None:
    names = ("junit", "json", "badge")
    run(url, *(word for name in names for word in (f"--{name}", str(tmp_path / name))))
    root = ET.parse(tmp_path / "junit").getroot()
    suites = [(suite.get("name"), suite.get("tests"), suite.get("failures")) for suite in root]
    assert suites == [("message", "1", "0"), ("stream", "1", "1")]
    failure = root.find("testsuite/testcase/failure")
    assert failure is not None
    assert failure.get("message") == NO_STREAM
    assert (failure.text or "").startswith("✕ stream.grammar (MUST)\n  Rule: ")
    content = json.loads((tmp_path / "json").read_text("utf-8"))
    assert [(check["id"], check["outcome"]) for check in content["checks"]] == [
        ("message.type", "passed"),
        ("stream.grammar", "failed"),
    ]
    assert content["levels"]["MUST"] == {
        "passed": 1,
        "failed": 1,
        "model": 0,
        "skipped": 0,
        "unfinished": 0,
        "fault": 0,
    }
    assert content["complete"] is True
    badge = json.loads((tmp_path / "badge").read_text("utf-8"))
    assert badge == {"schemaVersion": 1, "label": "Messages API", "message": "MUST 1/2", "color": "red"}


def test_a_report_that_cannot_be_written_ends_the_run_at_its_begin(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "no-folder" / "report.json"
    assert run(url, "--json", str(file)) == 2
    shown = capsys.readouterr()
    assert shown.err == f"messages-conformance: {file} cannot be written: No such file or directory\n"
    assert shown.out == ""


def read_report(folder: Path) -> tuple[bool, dict[str, str], list[str]]:
    """Return whether the run was complete, check → outcome, and the cases of the JUnit report."""
    content = json.loads((folder / "json").read_text("utf-8"))
    cases = [str(case.get("name")) for case in ET.parse(folder / "junit").getroot().iter("testcase")]
    return content["complete"], {check["id"]: check["outcome"] for check in content["checks"]}, cases


@contextmanager
def silent_for_streams() -> Iterator[tuple[str, threading.Event]]:
    """A server that never answers requests for streams, and the event of the first of them."""
    asked, left = threading.Event(), threading.Event()

    def handle(handler: BaseHTTPRequestHandler, body: Any) -> None:
        if body.get("stream"):
            asked.set()
            left.wait(WAIT_SECONDS)
            return
        reply(handler, json.dumps(MESSAGE).encode())

    with serve(handle) as address:
        yield address, asked
        left.set()


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_run_that_is_ended_from_outside_leaves_its_reports(end: str, tmp_path: Path) -> None:
    with silent_for_streams() as (address, asked):
        names = [word for name in ("json", "junit") for word in (f"--{name}", str(tmp_path / name))]
        command = [sys.executable, "-m", "messages_conformance", address, *CHECKS, "--jobs", "1", *names]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert asked.wait(WAIT_SECONDS)
        first = (False, {"message.type": "passed"}, ["message.type"])
        wait_for(lambda: read_report(tmp_path), lambda report: report == first)
        getattr(process, end)()
        shown, _ = process.communicate(timeout=WAIT_SECONDS)
    if end == "kill":
        assert read_report(tmp_path) == first
        return
    outcomes = {"message.type": "passed", "stream.grammar": "unfinished"}
    assert read_report(tmp_path) == (True, outcomes, ["message.type", "stream.grammar"])
    assert process.returncode == 2
    assert shown.endswith(" s: 0 failed, 0 of them expected; 0 expected to fail passed; the run ended before 1\n")


def test_a_second_signal_ends_the_program(url: str) -> None:
    runner = Runner(Options(url=url, model="m"))
    checks = [check for check in load_suite() if check.id == "message.type"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a script in the background ignores it
    try:
        with _ended_by_signals(runner):
            signal.raise_signal(signal.SIGINT)
            assert [result.outcome for result in runner.run(checks)] == [Outcome.UNFINISHED]
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_has_a_maximum_time(tmp_path: Path) -> None:
    with silent_for_streams() as (address, _):
        names = [word for name in ("json", "junit") for word in (f"--{name}", str(tmp_path / name))]
        words = ["--model", "m", "--check", "stream.grammar", "--run-timeout", "0.5"]
        assert main([address, *words, *names]) == 2
    assert read_report(tmp_path) == (True, {"stream.grammar": "unfinished"}, ["stream.grammar"])


def test_failures_of_one_cause_say_once_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = b'{"type": "error", "error": {"type": "not_found_error", "message": "m"}, "request_id": "r"}'

    def handle(handler: BaseHTTPRequestHandler, _: Any) -> None:
        if "count_tokens" in handler.path:
            reply(handler, error, status=404)
        else:
            reply(handler, json.dumps(MESSAGE).encode())

    with serve(handle) as address:
        words = ["--model", "m", "--quiet", "--check", "counts.*", "--check", "message.type"]
        assert main([address, *words, "--json", str(tmp_path / "json")]) == 1
    names = sorted(
        check.id for check in load_suite() if check.id.startswith("counts.") and "backend" not in check.needs
    )
    shown = capsys.readouterr().out
    advice = (
        "No check that needs the endpoint count_tokens passed. If the server does not have it, use --without count."
    )
    assert f"✕ {len(names)} failures have one cause. {advice}\n  counts.form, " in shown
    assert shown.count("--without count") == 1
    assert shown.count("  Rule: ") == 1
    [cause] = json.loads((tmp_path / "json").read_text("utf-8"))["causes"]
    assert (cause["advice"], sorted(cause["checks"])) == (advice, names)


def test_nothing_listens(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("http://127.0.0.1:9") == 2
    assert capsys.readouterr().err == ("messages-conformance: nothing accepts connections at http://127.0.0.1:9\n")


def test_a_wrong_key_ends_the_run_before_the_checks(capsys: pytest.CaptureFixture[str]) -> None:
    error = b'{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}'
    with serve(lambda handler, _: reply(handler, error, status=401)) as url:
        assert run(url) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(
        f"messages-conformance: {url} does not answer a plain request with the model m; the key is read from "
        "MESSAGES_API_KEY.\ncurl -isSN "
    )
    assert shown.endswith(f"\n401 application/json\n{error.decode()}\n")


KEY = 'key-of-the-user\'s "own"'
PASSWORD = "hunter-2-and-more"
HIDDEN = ("--header", f"authorization: Bearer {PASSWORD}", "--header", f"x-password: {PASSWORD}")
ECHOES = {
    "text": lambda key: {**MESSAGE, "content": f"{PASSWORD} {key}"},
    "cut text": lambda key: {**MESSAGE, "content": "a" * 180 + key},
    "header": lambda _: MESSAGE,
    "cut body": lambda key: {**MESSAGE, "id": "a" * 1980, "content": [key]},
    "name": lambda key: {**MESSAGE, "role": key, f"{key}": key},
}


@pytest.mark.parametrize("name", ECHOES)
def test_a_key_that_a_server_repeats_is_shown_nowhere(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESSAGES_API_KEY", KEY)
    names = ("junit", "json", "badge", "write-expected")
    words = (*HIDDEN, *(word for report in names for word in (f"--{report}", str(tmp_path / report))))

    def answer(handler: BaseHTTPRequestHandler, _: object) -> None:
        key = handler.headers["x-api-key"]
        assert key == KEY
        kind = f"text/{key}" if name == "header" else "application/json"
        reply(handler, json.dumps(ECHOES[name](key)).encode(), kind)

    with serve(answer) as url:
        main([url, "--model", "m", "--check", "message.*", "--check", "stream.grammar", *words])
    captured = capsys.readouterr()
    texts = [captured.out + captured.err, *((tmp_path / report).read_text("utf-8") for report in names)]
    assert "$MESSAGES_API_KEY" in texts[0]
    assert "-H 'x-password: …'" in texts[0]
    for text in texts:
        assert not [secret for secret in (KEY[:9], PASSWORD[:9]) if secret in html.unescape(text)]


def test_the_command_of_a_failure_sends_what_the_check_has_sent(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESSAGES_API_KEY", KEY)
    assert main([url, "--model", "m", "--quiet", "--check", "errors.*-key", "--check", "requests.bearer"]) == 1
    shown = capsys.readouterr().out
    assert " -H 'x-api-key: wrong-key' " in shown
    assert shown.count("$MESSAGES_API_KEY") == 0


@pytest.mark.parametrize(("key", "control"), [("abc\n", "\\u000a"), ("a\rb: c", "\\u000d")])
def test_a_key_with_a_line_break_is_refused_by_name(
    key: str, control: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESSAGES_API_KEY", key)
    assert run("http://127.0.0.1:9") == 2
    assert capsys.readouterr().err == (
        f"messages-conformance: the variable MESSAGES_API_KEY has the character {control}; "
        "a header is one line without control characters\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--header", "x-password hunter2"),
            "a --header is not of the form 'NAME: VALUE'; its text is not shown, because it can be secret",
        ),
        (
            ("--header", "x-password: hunter2\n"),
            "the value of --header x-password has the character \\u000a; "
            "a header is one line without control characters",
        ),
        (("--model", "a\udc80"), "the name of the model has the character \\udc80"),
    ],
)
def test_a_wrong_argument(words: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("http://127.0.0.1:9", *words) == 2
    assert capsys.readouterr().err == f"messages-conformance: {message}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--timeout", "0"), "argument --timeout: it is '0'; allowed: more than 0, at most 86,400"),
        (("--timeout", "nan"), "argument --timeout: it is 'nan'; allowed: more than 0, at most 86,400"),
        (("--jobs", "0"), "argument --jobs: it is '0'; allowed: 1 to 64"),
    ],
)
def test_a_number_out_of_range(words: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("http://127.0.0.1:9", *words)
    assert capsys.readouterr().err.endswith(f"messages-conformance: error: {message}\n")


def test_a_server_is_started_when_its_model_is_loaded_and_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(lambda *_: None) as free:
        pass
    port = free.rpartition(":")[2]
    program = tmp_path / "server.py"
    program.write_text(
        "import sys\nfrom http.server import *\n"
        "class Handler(BaseHTTPRequestHandler):\n"
        "    status = 503\n"
        "    def do_POST(self):\n"
        "        self.send_response(Handler.status)\n        self.end_headers()\n        Handler.status = 200\n"
        "print('started', flush=True)\nHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n"
    )
    assert run(free, "--start", f"{sys.executable} {program} {port}") == 1
    assert run(free) == 2
    assert run(free, "--start", f"{sys.executable} {program} no-number") == 2
    assert "the command has ended with the status 1:\nstarted\nTraceback" in capsys.readouterr().err


def run_pytest(url: str, *words: str) -> tuple[int, list[str]]:
    """Return the exit status and the results, sorted by name."""
    command = [sys.executable, "-m", "pytest", "-p", "messages_conformance.pytest_plugin", "-p", "no:cacheprovider"]
    checks = ("--messages-check", "message.type", "--messages-check", "stream.grammar", "--messages-model", "m")
    done = subprocess.run(
        [*command, "-q", "-rA", "-c", "/dev/null", "--rootdir", ".", "--messages-url", url, *checks, *words],
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    results = [line.partition(" - ")[0] for line in done.stdout.splitlines() if " messages::" in line]
    return done.returncode, sorted(results)


def test_the_plugin_of_pytest(url: str, tmp_path: Path) -> None:
    assert run_pytest(url, "-k", "stream or message.type") == (
        1,
        ["FAILED messages::stream.grammar", "PASSED messages::message.type"],
    )
    file = tmp_path / "expected-failures.toml"
    file.write_text('[failures]\n"stream.grammar" = "a"\n"message.type" = "b"\n', "utf-8")
    assert run_pytest(url, "--messages-expected", str(file)) == (
        1,
        ["FAILED messages::message.type", "XFAIL messages::stream.grammar"],
    )


def test_the_plugin_of_pytest_shows_no_key_and_no_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESSAGES_API_KEY", "key-of-the-user")
    with serve(lambda handler, _: reply(handler, b"\x1b[2J key-of-the-user")) as url:
        command = [sys.executable, "-m", "pytest", "-p", "messages_conformance.pytest_plugin", "-p", "no:cacheprovider"]
        words = ["--messages-url", url, "--messages-model", "m", "--messages-check", "message.type"]
        done = subprocess.run(
            [*command, "-q", "-rA", "-c", "/dev/null", "--rootdir", ".", *words],
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert "200 application/json\n    \\u001b[2J $MESSAGES_API_KEY\n" in done.stdout
    assert not [text for text in ("\x1b", "key-of") if text in done.stdout + done.stderr]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://127.0.0.1", "the URL is 'ftp://127.0.0.1'; it has to begin with http:// or https://"),
        ("http://127.0.0.1:x", "the URL 'http://127.0.0.1:x' has an invalid port"),
        ("http://me:secret@127.0.0.1", "the URL has a user, a query or a fragment; use --header for credentials"),
        ("http://127.0.0.1/?key=secret", "the URL has a user, a query or a fragment; use --header for credentials"),
    ],
)
def test_a_wrong_url(url: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(url) == 2
    assert capsys.readouterr().err == f"messages-conformance: {message}\n"
