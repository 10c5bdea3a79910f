"""Runs checks against a server, some at once, and sorts their results."""

import hashlib
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

from messages_conformance.backends import LACKS, Backend
from messages_conformance.client import Server
from messages_conformance.expectations import EXPECTATIONS
from messages_conformance.generated import generate
from messages_conformance.rows import NEEDS, Check, Expectation, SuiteError, load_checks
from messages_conformance.shown import Screen, ShownExchange
from messages_conformance.steps import STEPS, StepImpossible, build_plain_request
from messages_conformance.trial import DEFAULT_KEY, KEY_VARIABLE, Options, Trial

_MAX_REASONS = 20
_UNFINISHED = "the run ended before it"
_LOADING_SECONDS = 0.2
"""Interval of the requests to a server that is starting."""


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    """The server does not do what the rule says."""
    MODEL = "model"
    """The model did not do what the check needs. It says nothing about the server."""
    SKIPPED = "skipped"
    """The check needs what is missing here."""
    UNFINISHED = "unfinished"
    """The run ended before the check."""
    FAULT = "fault"
    """An exception of the suite itself. It says nothing about the server."""


@dataclass(frozen=True, kw_only=True)
class Result:
    check: Check
    outcome: Outcome
    reasons: tuple[str, ...] = ()
    """What is wrong, missing, or the stack of a fault. Like the exchanges, they are fit for all outputs."""
    exchanges: tuple[ShownExchange, ...] = ()
    """Of the last trial, unless it has passed."""
    trials: int = 0
    """Number of trials; more than one where a model can fail the check."""
    seconds: float = 0.0


def load_suite() -> tuple[Check, ...]:
    """Read all checks, and make sure that their words are known. Raises `SuiteError`."""
    checks = load_checks()
    for check in checks:
        for expectation in (*check.given, *check.expect):
            _find_name(check, expectation)
        for step in check.steps:
            if step.do not in STEPS:
                raise SuiteError(f"check {check.id}: there is no step {step.do!r}; allowed: {', '.join(STEPS)}")
    return checks


class Runner:
    """Runs checks against the server under test."""

    def __init__(self, options: Options, backend: Backend | None = None) -> None:
        self._options = options
        self._backend = backend
        self.server = Server(options.url, timeout=options.timeout)
        self.screen = Screen(options)
        self._ended = threading.Event()
        self._nonce = secrets.token_hex(8)
        """Makes the tokens of a run new, because a server may keep replies."""

    @property
    def url(self) -> str:
        """Address of the server, to which paths are added."""
        return self.server.url

    def require_reply(self, start_seconds: float = 0) -> None:
        """Raise `SuiteError` unless the server answers a plain request, because every check would fail. A run that has
        ended asks for nothing.

        `start_seconds`: maximum time for which a server that is starting may answer with the status 503.
        """
        if not self.server.accepts_connections():
            raise SuiteError(f"nothing accepts connections at {self.url}")
        deadline = time.monotonic() + start_seconds
        exchange = self.server.send(build_plain_request(self._options))
        while exchange.status == HTTPStatus.SERVICE_UNAVAILABLE and time.monotonic() < deadline:
            time.sleep(_LOADING_SECONDS)  # it loads its model
            exchange = self.server.send(build_plain_request(self._options))
        if exchange.status != 200 and not self._ended.is_set():
            shown = self.screen.show(exchange, self.url)
            raise SuiteError(
                f"{self.url} does not answer a plain request with the model {self._options.model}; the key is read "
                f"from {KEY_VARIABLE}.\n{shown.request}\n{shown.reply}"
            )

    def run(
        self, checks: Sequence[Check], jobs: int = 4, report: Callable[[Result], None] = lambda _: None
    ) -> list[Result]:
        """Return the results in the order of the checks. Each one is reported when it is known.

        Checks of a maximum time, and those of many requests at once, run at the end, each alone, so that none disturbs
        the others.
        """
        results: dict[str, Result] = {}
        with ThreadPoolExecutor(jobs) as threads:
            runs = [threads.submit(self.run_check, check) for check in checks if not _runs_alone(check)]
            for run in as_completed(runs):
                result = run.result()
                results[result.check.id] = result
                report(result)
        for check in filter(_runs_alone, checks):
            results[check.id] = self.run_check(check)
            report(results[check.id])
        return [results[check.id] for check in checks]

    def end(self) -> None:
        """End the run: all checks that have no result yet are unfinished."""
        self._ended.set()
        self.server.hang_up()

    def run_check(self, check: Check) -> Result:
        missing = [need for need in check.needs if is_missing(need, self._options)]
        if missing:
            needed = tuple(f"it needs {NEEDS[need]}" for need in missing)
            return Result(check=check, outcome=Outcome.SKIPPED, reasons=needed)
        if self._ended.is_set():
            return Result(check=check, outcome=Outcome.UNFINISHED, reasons=(_UNFINISHED,))
        started = time.monotonic()
        limit = 1 if self._backend and not _is_timed(check) else check.repeats
        for number in range(1, limit + 1):
            trial = self._build_trial(check, number)
            outcome, reasons = self._try(trial)
            if outcome is not Outcome.MODEL and (check.given or outcome is not Outcome.FAILED):
                break
        if self._ended.is_set() and outcome is not Outcome.PASSED:
            return Result(check=check, outcome=Outcome.UNFINISHED, reasons=(_UNFINISHED,), trials=number)
        is_shown = outcome is not Outcome.PASSED
        return Result(
            check=check,
            outcome=outcome,
            reasons=tuple(self.screen.clean(reason) for reason in _limit(reasons)),
            exchanges=tuple(self.screen.show(exchange, self.url) for exchange in trial.exchanges) if is_shown else (),
            trials=number,
            seconds=time.monotonic() - started,
        )

    def _try(self, trial: Trial) -> tuple[Outcome, list[str]]:
        """Return the outcome of one trial, and the reasons for it."""
        try:
            impossible = self._send(trial)
            if self._backend is None and (lacking := judge_model(trial)):
                return Outcome.MODEL, lacking
            reasons = impossible or judge_trial(trial)
        except Exception:  # noqa: BLE001  # a fault of the suite must not look like a failure of the server
            return Outcome.FAULT, [traceback.format_exc()]
        return Outcome.FAILED if reasons else Outcome.PASSED, reasons

    def _send(self, trial: Trial) -> list[str]:
        """Go through the steps. Return why one of them was impossible, else nothing."""
        check = trial.check
        if self._backend:
            self._backend.expect(trial.id, generate(check.replies))
        try:
            for step in check.steps:
                STEPS[step.do](step, trial, self.server)
        except StepImpossible as impossible:
            return [*(x.failure for x in trial.exchanges if x.failure), str(impossible)]
        finally:
            if self._backend:
                trial.upstream = self._backend.take_requests(trial.id)
        return []

    def _build_trial(self, check: Check, number: int) -> Trial:
        trial = Trial(self._build_id(check, number), check, self._options)
        backend = self._backend
        if backend is not None:
            trial.saw = lambda kind: backend.tell(trial.id, kind)
        return trial

    def _build_id(self, check: Check, number: int) -> str:
        return hashlib.sha256(f"{self._nonce} {check.id} {number}".encode()).hexdigest()[:12]


def _is_timed(check: Check) -> bool:
    return any("seconds" in expectation for expectation in check.expect)


def _runs_alone(check: Check) -> bool:
    return _is_timed(check) or any(step.do == "together" for step in check.steps)


def is_missing(need: str, options: Options) -> bool:
    if need == "backend":
        return not options.backend
    if need == "keys" and options.key == DEFAULT_KEY:  # any key is accepted where this one is
        return True
    return need in options.missing or need in LACKS.get(options.backend, ())


def judge_trial(trial: Trial) -> list[str]:
    """Return what is wrong in the exchanges of a trial."""
    check = trial.check
    may_break = any(_find_name(check, expectation) == "failure" for expectation in check.expect)
    failures = [] if may_break else [exchange.failure for exchange in trial.exchanges if exchange.failure]
    return failures + _judge(trial, check.expect)


def judge_model(trial: Trial) -> list[str]:
    """Return what a real model did not do that its check needs. Nothing: it did all, or a reply is no message."""
    for exchange in trial.exchanges:
        # a server that sends only pings is silent itself
        if exchange.is_endless and exchange.events and exchange.events[-1].type == "content_block_delta":
            return [f"the model did not end: {exchange.failure}"]
    if any(exchange.failure or exchange.error or exchange.message is None for exchange in trial.exchanges):
        return []
    return [f"the model did not do what the check needs: {reason}" for reason in _judge(trial, trial.check.given)]


def _judge(trial: Trial, expected: Sequence[Expectation]) -> list[str]:
    reasons = list[str]()
    for expectation in expected:
        name = _find_name(trial.check, expectation)
        needs = {expectation.get("needs", ""), "backend" if name.startswith("upstream") else ""} - {""}
        if not any(is_missing(need, trial.options) for need in needs):
            reasons += EXPECTATIONS[name](generate(dict(expectation)), trial)
    return reasons


def _limit(reasons: Sequence[str]) -> list[str]:
    more = len(reasons) - _MAX_REASONS
    return [*reasons[:_MAX_REASONS], *([f"and {more} more"] if more > 0 else ())]


def _find_name(check: Check, expectation: Expectation) -> str:
    names = [name for name in expectation if name in EXPECTATIONS]
    if len(names) != 1:
        allowed = ", ".join(EXPECTATIONS)
        raise SuiteError(f"check {check.id}: {dict(expectation)} has not exactly one of the words {allowed}")
    return names[0]
