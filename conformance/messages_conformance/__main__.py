"""Command `messages-conformance URL --model M`: checks a server, and prints what it found."""

import argparse
import fnmatch
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from messages_conformance import __version__
from messages_conformance.backends import PROTOCOLS, start_backend
from messages_conformance.results import describe, describe_failure, to_json, write_table
from messages_conformance.rows import FROZEN_SETS, NEEDS, SETS, VERSIONS, Check, Level, SuiteError
from messages_conformance.runner import Outcome, Runner, load_suite
from messages_conformance.trial import DEFAULT_KEY, Options

KEY_VARIABLE = "MESSAGES_API_KEY"
OTHER_KEY_VARIABLE = "MESSAGES_OTHER_API_KEY"
EXIT_FAILED = 1
EXIT_FAULT = 2
"""The suite or its arguments are wrong."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="messages-conformance",
        description="Check whether a server speaks the Anthropic Messages API.",
        epilog="Exit status 0: as expected; 1: failures; 2: the suite or its arguments are wrong.",
    )
    parser.add_argument("url", metavar="URL", nargs="?", help="address of the server: http://127.0.0.1:8080")
    parser.add_argument("--model", metavar="M", help="name of the model in the requests")
    key = parser.add_argument_group("the server")
    key.add_argument(
        "--header", metavar="'NAME: VALUE'", action="append", default=[], help="header of each request; can be repeated"
    )
    key.add_argument("--timeout", type=float, default=60, metavar="S", help="seconds without a byte (default: 60)")
    key.add_argument(
        "--without", metavar="NEED", action="append", default=[], choices=sorted(NEEDS), help="what it does not have"
    )
    backend = parser.add_argument_group("a proxy, with a scripted upstream behind it")
    backend.add_argument("--backend", choices=PROTOCOLS, help="protocol of the upstream")
    backend.add_argument(
        "--backend-address", metavar="HOST:PORT", default="127.0.0.1:8790", help="(default: 127.0.0.1:8790)"
    )
    chosen = parser.add_argument_group("which checks")
    chosen.add_argument("--set", metavar="SET", dest="sets", action="append", choices=SETS, help=", ".join(SETS))
    chosen.add_argument("--check", metavar="ID", dest="ids", action="append", help="one check, or a pattern: stream.*")
    chosen.add_argument("--level", action="append", choices=[level.value for level in Level])
    chosen.add_argument("--jobs", type=int, default=4, metavar="N", help="checks at once (default: 4)")
    chosen.add_argument("--list", action="store_true", help="list the checks, run none")
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="write all results")
    output.add_argument("--quiet", action="store_true", help="print failures and the table only")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def select(checks: Sequence[Check], sets: Sequence[str], ids: Sequence[str], levels: Sequence[str]) -> list[Check]:
    """Return the checks of any of the sets, ids and levels. Raises `SuiteError` if there is none."""
    selected = [
        check
        for check in checks
        if any(name in sets for name in check.sets)
        and (not ids or any(fnmatch.fnmatchcase(check.id, pattern) for pattern in ids))
        and (not levels or check.level in levels)
    ]
    for pattern in ids:
        if not any(fnmatch.fnmatchcase(check.id, pattern) for check in selected):
            raise SuiteError(f"no check of the sets {', '.join(sets)} has the id {pattern!r}")
    return selected


def main(words: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(words)
    try:
        return run(arguments)
    except SuiteError as error:
        sys.stderr.write(f"messages-conformance: {error}\n")
        return EXIT_FAULT


def run(arguments: argparse.Namespace) -> int:
    sets = arguments.sets or (FROZEN_SETS if not arguments.ids else SETS)
    checks = select(load_suite(), sets, arguments.ids or (), arguments.level or ())
    if arguments.list:
        for check in checks:
            print(f"{check.level:<6} {check.id:<44} {check.rule}")
        return 0
    if not arguments.url or not arguments.model:
        raise SuiteError("URL and --model are needed")
    versions = [name for name in sets if name in VERSIONS]
    options = Options(
        url=arguments.url,
        model=arguments.model,
        key=os.environ.get(KEY_VARIABLE) or DEFAULT_KEY,
        other_key=os.environ.get(OTHER_KEY_VARIABLE) or "",
        version=versions[0] if len(versions) == 1 else "",
        headers=tuple(map(_read_header, arguments.header)),
        backend=arguments.backend or "",
        missing=frozenset(arguments.without),
        timeout=arguments.timeout,
        jobs=arguments.jobs,
    )
    with ExitStack() as stack:
        backend = None
        if arguments.backend:
            host, _, port = arguments.backend_address.rpartition(":")
            if not host or not port.isdecimal():
                raise SuiteError(f"--backend-address is {arguments.backend_address!r}, not HOST:PORT")
            backend = start_backend(arguments.backend, host, int(port))
            stack.callback(backend.close)
            print(f"The upstream is {backend.url}", flush=True)
        runner = Runner(options, backend)
        results = runner.run(checks, lambda result: None if arguments.quiet else print(describe(result), flush=True))
    failed = [result for result in results if result.outcome is Outcome.FAILED]
    faults = [result for result in results if result.outcome is Outcome.FAULT]
    for result in failed:
        print(f"\n{describe_failure(result, runner.url)}")
    for result in faults:
        print(f"\n! {result.check.id}: a fault of the suite, not of the server\n{result.reasons[0]}")
    print(f"\n{write_table(results)}")
    if arguments.json:
        arguments.json.write_text(to_json(results, runner.url, model=options.model), "utf-8")
    return EXIT_FAULT if faults else EXIT_FAILED if failed else 0


def _read_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise SuiteError(f"--header is {text!r}, not 'NAME: VALUE'")
    return name.strip().lower(), value.strip()


if __name__ == "__main__":
    sys.exit(main())
