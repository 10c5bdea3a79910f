"""Runs rows against the server as a user starts it: one process a row, all wires at once."""

import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from tests.faults.call import HEALTHY
from tests.faults.cases.case import FaultCase, FaultContext, ask
from tests.faults.client import Asking
from tests.faults.expected import Case, Complete, check_answer
from tests.faults.protocols import PROTOCOLS, ProviderProtocol
from tests.faults.upstream import FaultyUpstream
from tests.support.fakes.google_tokens import TokenServers, new_token_servers, write_service_account
from tests.support.fakes.server import serving
from tests.support.server_process import BLOCKED, Proxy, running_proxy
from tests.support.waiting import WAIT_SECONDS

OWN_SETTINGS = {"PREFERRED_PROVIDER": "anthropic", "LOG_FORMAT": "json", "UPSTREAM_TIMEOUT": "30"}
"""Limits that only hanging requests reach, and that end before a client stops waiting."""
_SOCKET = re.compile(r"socket:\[\d+\]")
_WARMING_UP = 10


@dataclass
class Result:
    """The outcome of one row on one wire, streamed or not."""

    case: FaultCase
    protocol: str
    streams: bool
    seconds: float | None = None
    problems: list[str] = field(default_factory=list)


def seems_blocked(results: Sequence[Result]) -> bool:
    problems = [problem for result in results for problem in result.problems]
    return bool(problems) and all(problem.startswith(BLOCKED) for problem in problems)


class FaultRunner:
    """The part that all rows share: the servers that give tokens for Vertex AI."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        tokens = self._stack.enter_context(serving(new_token_servers(TokenServers())))
        self._credentials = str(write_service_account(self.directory, tokens.url))

    def close(self) -> None:
        self._stack.close()

    def run(self, case: FaultCase, protocols: Sequence[ProviderProtocol] = PROTOCOLS) -> list[Result]:
        """Run a row on every wire, streamed and not.

        Where even the first request would fail, each wire has a process of its own: after failures in a row an
        upstream would not be asked for a while.
        """
        if case.scheme == "http":
            return self._run(case, protocols)
        return [result for protocol in protocols for result in self._run(case, [protocol])]

    def _run(self, case: FaultCase, protocols: Sequence[ProviderProtocol]) -> list[Result]:
        """Run a row in one process; the problems of the process as a whole go into the first result."""
        results: list[Result] = []
        try:
            self._run_in_harness(case, protocols, results)
        except AssertionError as error:  # the process blocked its loop, showed a key or did not start or end
            results = results or [Result(case, protocols[0].name, True)]
            lines = str(error).splitlines()
            blocks = [line for line in lines if line.startswith(BLOCKED)]
            results[0].problems += blocks or ["\n".join(lines[-20:])]
        return results

    def _run_in_harness(self, case: FaultCase, protocols: Sequence[ProviderProtocol], results: list[Result]) -> None:
        with self._harness(case, protocols) as (proxy, upstreams):
            providers = [list(group) for _, group in groupby(protocols, lambda protocol: protocol.provider)]
            sockets = _count_sockets(proxy) + 1  # google-auth keeps its connection to the server of tokens

            def run_provider(group: list[ProviderProtocol]) -> list[Result]:
                return list(_run_provider(case, group, proxy, upstreams[group[0].provider]))

            with ThreadPoolExecutor(1 if case.heavy else len(providers)) as pool:
                for found in pool.map(run_provider, providers):
                    results += found
            results[0].problems += _check_process(proxy, sockets)

    @contextmanager
    def _harness(
        self, case: FaultCase, protocols: Sequence[ProviderProtocol]
    ) -> Iterator[tuple[Proxy, Mapping[str, FaultyUpstream]]]:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self.directory)))
            settings = {**OWN_SETTINGS, "GOOGLE_APPLICATION_CREDENTIALS": self._credentials}
            upstreams: dict[str, FaultyUpstream] = {}
            for protocol in protocols:
                if protocol.provider not in upstreams:
                    kin = [other for other in protocols if other.provider == protocol.provider]
                    upstreams[protocol.provider] = FaultyUpstream(kin)
                    stack.callback(upstreams[protocol.provider].close)
                settings[protocol.address] = f"{case.scheme}://{upstreams[protocol.provider].address}{protocol.path}"
                settings |= protocol.settings
            routes = "\n".join(protocol.route_table for protocol in protocols)
            (directory / "anthropic-proxy.toml").write_text(routes, encoding="utf-8")
            proxy = stack.enter_context(running_proxy(directory, {**settings, **case.settings}))
            yield proxy, upstreams


def _run_provider(
    case: FaultCase, protocols: Sequence[ProviderProtocol], proxy: Proxy, upstream: FaultyUpstream
) -> Iterator[Result]:
    if case.scheme == "http":
        _warm_up(FaultContext(protocols[0], True, _port(proxy), upstream))
    for protocol in protocols:
        for streams in (True, False):
            expected = case.case(protocol, streams)
            if expected is None:
                continue
            context = FaultContext(protocol, streams, _port(proxy), upstream)
            result = Result(case, protocol.name, streams)
            if case.scheme == "http":
                result.problems += [f"before the row: {problem}" for problem in _serve_well(context)]
            _run_one(result, context, expected)
            yield result
        if case.scheme == "http":
            result.problems += [f"after the row: {problem}" for problem in _serve_well(context)]


def _warm_up(context: FaultContext) -> None:
    context.upstream.play(HEALTHY)
    for _ in range(_WARMING_UP):
        if ask(context).answer.status == 200:
            return


def _serve_well(context: FaultContext) -> list[str]:
    """Return the problems of a request to which nothing happens; its success also counts as the upstream's."""
    context.upstream.play(HEALTHY)
    problems = list(check_answer(Complete(), ask(context).answer))
    context.upstream.settle()
    return problems


def _run_one(result: Result, context: FaultContext, expected: Case) -> None:
    case, upstream = result.case, context.upstream
    upstream.play(*case.scripts)
    if case.arm is not None:
        case.arm(upstream)
    observed = case.ask(context)
    if case.arm is not None:
        upstream.recover()
    problems = [*observed.problems, *check_answer(expected.expected, observed.answer)]
    result.problems += problems
    result.seconds = observed.seconds
    if case.arm is None and case.scheme == "http" and upstream.asked != expected.calls:
        result.problems.append(f"{upstream.asked} calls instead of {expected.calls}")
    if not upstream.settle():
        result.problems.append("a connection to the provider stays open")


def _check_process(proxy: Proxy, sockets: int) -> Iterator[str]:
    """Yield the problems that the row caused in the process as a whole."""
    if proxy.process.poll() is not None:
        yield f"the server ended with {proxy.process.returncode}"
        return
    asking = Asking(_port(proxy))
    asking.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    if asking.read_answer().status != 200:
        yield "it does not answer any more"
    asking.close()
    deadline = time.monotonic() + WAIT_SECONDS
    while (now := _count_sockets(proxy)) > sockets and time.monotonic() < deadline:
        time.sleep(0.02)
    if now > sockets:
        yield f"{now - sockets} sockets stay open"
    if "Traceback" in proxy.log:
        yield "the log has a traceback: " + proxy.log[proxy.log.index("Traceback") :][:2_000]


def _count_sockets(proxy: Proxy) -> int:
    """Return how many sockets the process holds; 0 where that cannot be found out."""
    folder = Path(f"/proc/{proxy.process.pid}/fd")
    count = 0
    for link in folder.iterdir() if folder.exists() else ():
        try:
            count += bool(_SOCKET.fullmatch(str(link.readlink())))
        except OSError:
            continue  # it was closed meanwhile
    return count


def _port(proxy: Proxy) -> int:
    return int(proxy.url.rpartition(":")[2])
