"""The options of a run, for the command line and for pytest, and what they select."""

import fnmatch
import os
import re
import threading
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from messages_conformance.backends import PROTOCOLS, start_backend
from messages_conformance.expected import read_expected
from messages_conformance.rows import FROZEN_SETS, NEEDS, SETS, VERSIONS, Check, Level, SuiteError
from messages_conformance.runner import Runner, load_suite
from messages_conformance.started import start_server
from messages_conformance.texts import find_control
from messages_conformance.trial import DEFAULT_KEY, KEY_VARIABLE, Options

_MAX_SECONDS = 86_400


def positive_seconds(text: str) -> float:
    """Return the seconds of an argument, for argparse and pytest."""
    seconds = float(text)
    if not 0 < seconds <= _MAX_SECONDS:
        raise ArgumentTypeError(f"it is {text!r}; allowed: more than 0, at most {_MAX_SECONDS:,}")
    return seconds


_DEST = "messages_"
"""Begin of the names of all options in a namespace, because that of pytest has options of other plugins too."""
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "model": {"metavar": "M", "help": "name of the model in the requests"},
    "header": {"metavar": "'NAME: VALUE'", "action": "append", "default": [], "help": "header of each request"},
    "timeout": {
        "metavar": "S",
        "type": positive_seconds,
        "default": 60.0,
        "help": "seconds without a byte; a whole reply has twice as many (default: 60)",
    },
    "without": {
        "metavar": "NEED",
        "action": "append",
        "default": [],
        "choices": sorted(NEEDS),
        "help": f"what the server does not have: {', '.join(sorted(NEEDS))}",
    },
    "start": {
        "metavar": "COMMAND",
        "help": "start the server with this command, after the upstream, and stop it at the end",
    },
    "start-timeout": {
        "metavar": "S",
        "type": positive_seconds,
        "default": 120.0,
        "help": "seconds until the server is ready (default: 120)",
    },
    "run-timeout": {
        "metavar": "S",
        "type": positive_seconds,
        "help": "seconds for the whole run; checks that have not ended by then are unfinished (default: no limit)",
    },
    "backend": {
        "metavar": "PROTOCOL",
        "choices": PROTOCOLS,
        "help": f"play the provider behind a proxy: {', '.join(PROTOCOLS)}",
    },
    "backend-address": {
        "metavar": "HOST:PORT",
        "default": "127.0.0.1:8790",
        "help": "where the proxy finds it (default: 127.0.0.1:8790)",
    },
    "backend-accepts": {
        "metavar": "FIELD",
        "action": "append",
        "default": [],
        "help": "field of requests that the provider takes although its protocol does not have it",
    },
    "set": {
        "metavar": "SET",
        "action": "append",
        "choices": SETS,
        "help": f"checks of a set: {', '.join(SETS)} (default: all but draft)",
    },
    "check": {
        "metavar": "ID",
        "action": "append",
        "default": [],
        "help": "one check of any set, or a pattern: 'stream.*'",
    },
    "level": {
        "metavar": "LEVEL",
        "action": "append",
        "default": [],
        "choices": [level.value for level in Level],
        "help": ", ".join(Level),
    },
    "expected": {"metavar": "FILE", "type": Path, "help": "known failures: expected-failures.toml"},
}
"""Option without its begin → the arguments of `add_argument`. All but the flags can be repeated where it says
`append`."""


def add_options(add: Callable[..., Any], prefix: str = "--") -> None:
    """Add the options by `add_argument` of argparse or `addoption` of pytest."""
    for name, details in _OPTIONS.items():
        add(f"{prefix}{name}", dest=f"{_DEST}{name.replace('-', '_')}", **details)


@dataclass(frozen=True)
class Plan:
    """What a run does."""

    options: Options
    checks: Sequence[Check]
    expected: Mapping[str, str]
    """Check → reason of its known failure."""
    backend_address: str
    backend_accepts: Sequence[str]
    start: str
    start_timeout: float
    run_timeout: float | None
    """Maximum time in seconds of the whole run. None: there is none."""

    @contextmanager
    def open(self) -> Iterator[Runner]:
        """Start the upstream and the server, as far as they are wanted, and stop them at the end."""
        with ExitStack() as stack:
            backend = None
            if self.options.backend:
                host, _, port = self.backend_address.rpartition(":")
                if not host or not port.isdecimal():
                    raise SuiteError(f"the address of the backend is {self.backend_address!r}, not HOST:PORT")
                backend = start_backend(self.options.backend, host, int(port), self.backend_accepts)
                stack.callback(backend.close)
            runner = Runner(self.options, backend)
            if self.run_timeout is not None:
                timer = threading.Timer(self.run_timeout, runner.end)
                timer.daemon = True
                timer.start()
                stack.callback(timer.cancel)
            if self.start:
                try:
                    stack.enter_context(start_server(self.start, runner.server, self.start_timeout))
                except SuiteError as error:  # with the output of the command
                    raise SuiteError(runner.screen.clean(str(error))) from None
            runner.require_reply(self.start_timeout if self.start else 0)
            yield runner


def select_checks(namespace: Namespace) -> list[Check]:
    """Return the checks that the options select. Raises `SuiteError` if there are none."""
    given = _Given(namespace)
    patterns = given["check"]
    sets = given["set"] or (SETS if patterns else FROZEN_SETS)
    selected = [
        check
        for check in load_suite()
        if any(name in sets for name in check.sets)
        and (not patterns or any(fnmatch.fnmatchcase(check.id, pattern) for pattern in patterns))
        and (not given["level"] or check.level in given["level"])
    ]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(check.id, pattern) for check in selected):
            raise SuiteError(f"the sets {', '.join(sets)} have no check {pattern!r}")
    if not selected:
        raise SuiteError(f"the sets {', '.join(sets)} have no check of the level {', '.join(given['level'])}")
    return selected


def read_options(url: str, namespace: Namespace) -> Options:
    """Return what the options say about the server under test. Raises `SuiteError`."""
    given = _Given(namespace)
    versions = [name for name in given["set"] or () if name in VERSIONS]
    return Options(
        url=url,
        model=_read_model(given["model"] or ""),
        key=_read_key(KEY_VARIABLE) or DEFAULT_KEY,
        version=versions[0] if len(versions) == 1 else "",
        headers=tuple(map(_read_header, given["header"])),
        backend=given["backend"] or "",
        missing=frozenset(given["without"]),
        timeout=given["timeout"],
    )


def _read_model(name: str) -> str:
    if control := find_control(name):
        raise SuiteError(f"the name of the model has the character {control}")
    return name


def _read_key(variable: str) -> str:
    """Return the key of a variable of the environment. "": there is none."""
    key = os.environ.get(variable) or ""
    _require_one_line(f"the variable {variable}", key)
    return key


def _require_one_line(name: str, value: str) -> None:
    """Raise `SuiteError`, without the value, if it cannot stand in a header."""
    if control := find_control(value):
        raise SuiteError(f"{name} has the character {control}; a header is one line without control characters")


def read_plan(url: str, namespace: Namespace) -> Plan:
    """Return what the options say. Raises `SuiteError`."""
    given = _Given(namespace)
    options = read_options(url, namespace)
    if not options.model:
        raise SuiteError("the name of the model is missing")
    expected = read_expected(given["expected"]) if given["expected"] else {}
    if unknown := expected.keys() - {check.id for check in load_suite()}:
        raise SuiteError(f"{given['expected']}: there is no check {', '.join(sorted(unknown))}")
    return Plan(
        options=options,
        checks=select_checks(namespace),
        expected=expected,
        backend_address=given["backend_address"],
        backend_accepts=given["backend_accepts"],
        start=given["start"] or "",
        start_timeout=given["start_timeout"],
        run_timeout=given["run_timeout"],
    )


class _Given:
    def __init__(self, namespace: Namespace) -> None:
        self._values = vars(namespace)

    def __getitem__(self, name: str) -> Any:
        return self._values[_DEST + name]


def _read_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name.strip()):
        raise SuiteError("a --header is not of the form 'NAME: VALUE'; its text is not shown, because it can be secret")
    _require_one_line(f"the value of --header {name.strip()}", value)
    return name.strip().lower(), value.strip()
