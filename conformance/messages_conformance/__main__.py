"""Command `messages-conformance URL --model M`: checks a server, and prints what it found."""

import argparse
import io
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from messages_conformance import __version__
from messages_conformance.arguments import add_options, read_options, read_plan, select_checks
from messages_conformance.badge import write_badge
from messages_conformance.case import read_case, run_case, write_comparison
from messages_conformance.expected import find_new, find_stale, write_expected
from messages_conformance.reports import Reports
from messages_conformance.results import describe, describe_cause, describe_failure, find_causes, write_table
from messages_conformance.rows import SuiteError
from messages_conformance.runner import Outcome, Result, Runner
from messages_conformance.shown import Screen
from messages_conformance.texts import escape_unprintable
from messages_conformance.trial import KEY_VARIABLE

EXIT_FAILED = 1
EXIT_FAULT = 2
"""The suite or its arguments are wrong."""
_MAX_JOBS = 64


def build_parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Check whether a server speaks the Anthropic Messages API.",
        epilog=f"The key is read from {KEY_VARIABLE}. "
        "Exit status 0: as expected; 1: new failures, or expected ones that pass; 2: the suite or its arguments "
        "are wrong.",
    )
    parser.add_argument("url", metavar="URL", nargs="?", help="address of the server: http://127.0.0.1:8080")
    add_options(parser.add_argument)
    parser.add_argument("--jobs", type=_read_count, default=4, metavar="N", help="checks at once (default: 4)")
    parser.add_argument(
        "--case", type=Path, metavar="FOLDER", help="send the request of a bug report, and run no check"
    )
    parser.add_argument("--list", action="store_true", help="list the selected checks, and run none")
    parser.add_argument("--quiet", action="store_true", help="print failures and the table only")
    for name, text in (
        ("junit", "write JUnit XML"),
        ("json", "write all results"),
        ("badge", "write the JSON of a badge of shields.io"),
        ("write-expected", "write the failures of this run as the expected ones"),
    ):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=text)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _read_count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= _MAX_JOBS:
        raise argparse.ArgumentTypeError(f"it is {text!r}; allowed: 1 to {_MAX_JOBS}")
    return number


def main(words: Sequence[str] | None = None, program: str = "messages-conformance") -> int:
    arguments = build_parser(program).parse_args(words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals that do not know all characters
    try:
        if arguments.list:
            for check in select_checks(arguments):
                _print(f"{check.level:<6} {check.id:<44} {check.rule}")
            return 0
        return _run_case(arguments) if arguments.case else _run(arguments)
    except SuiteError as error:
        sys.stderr.write(f"{program}: {escape_unprintable(str(error))}\n")
        return EXIT_FAULT
    except KeyboardInterrupt:
        return 130


def _run_case(arguments: argparse.Namespace) -> int:
    case = read_case(arguments.case)
    options = read_options(_require_url(arguments), arguments)
    reply = run_case(case, options)
    _print(Screen(options).clean(write_comparison(case, reply)))
    return EXIT_FAILED if reply.violations else 0


def _require_url(arguments: argparse.Namespace) -> str:
    if not arguments.url:
        raise SuiteError("the URL of the server is missing")
    return str(arguments.url)


def _run(arguments: argparse.Namespace) -> int:
    _require_url(arguments)
    plan = read_plan(arguments.url, arguments)
    expected = plan.expected
    started = time.monotonic()

    with plan.open() as runner:
        reports = Reports(plan, runner.url, arguments.json, arguments.junit)

        def report(result: Result) -> None:
            if not arguments.quiet:
                _print(describe(result, expected.get(result.check.id)))
            reports.add(result)

        with _ended_by_signals(runner):
            results = runner.run(plan.checks, arguments.jobs, report)
    reports.write(complete=True)
    new = find_new(results, expected)
    stale = find_stale(results, expected)
    faults = [result for result in results if result.outcome is Outcome.FAULT]
    unfinished = sum(result.outcome is Outcome.UNFINISHED for result in results)
    causes = find_causes(new)
    # one failure of each cause is shown whole, the others by their names
    brief = {name for cause in causes for name in cause.checks[1:]}
    for result in new:
        if result.check.id not in brief:
            _print(f"\n{describe_failure(result)}")
    for cause in causes:
        _print(f"\n{describe_cause(cause)}")
    for result in stale:
        _print(f"\n✕ {result.check.id} passes: remove it from the expected failures")
    for result in faults:
        _print(f"\n! {result.check.id}: a fault of the suite, not of the server\n{result.reasons[0]}")
    _print(f"\n{write_table(results)}\n")
    failures = sum(result.outcome is Outcome.FAILED for result in results)
    undone = sum(result.outcome is Outcome.MODEL for result in results)
    _print(
        f"{len(results)} checks in {time.monotonic() - started:.1f} s: {failures} failed, "
        f"{failures - len(new)} of them expected; {len(stale)} expected to fail passed"
        + (f"; the model did not do what {undone} need" if undone else "")
        + (f"; the run ended before {unfinished}" if unfinished else "")
    )
    if arguments.badge:
        arguments.badge.write_text(write_badge(results), "utf-8")
    if arguments.write_expected:
        write_expected(arguments.write_expected, results, expected)
        return EXIT_FAULT if faults or unfinished else 0
    return EXIT_FAULT if faults or unfinished else EXIT_FAILED if new or stale else 0


@contextmanager
def _ended_by_signals(runner: Runner) -> Iterator[None]:
    """End the run, and not the program, when it is interrupted or terminated, so that its results are shown. A second
    signal ends the program.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    def end(_number: int, _frame: FrameType | None) -> None:
        restore()
        runner.end()

    try:
        for kind in kinds:
            signal.signal(kind, end)
        yield
    finally:
        restore()


def _print(text: str) -> None:
    """Print a text with parts of what the server has sent."""
    print(escape_unprintable(text), flush=True)


if __name__ == "__main__":
    sys.exit(main())
