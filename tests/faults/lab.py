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
from tests.faults.client import Asking
from tests.faults.expected import Case, Complete, check_answer
from tests.faults.rows.row import Row, Scene, ask
from tests.faults.upstream import FaultyUpstream
from tests.faults.voices import VOICES, Voice
from tests.support.fakes.google_tokens import TokenServers, new_token_servers, write_service_account
from tests.support.fakes.server import serving
from tests.support.server_process import BLOCKED, Proxy, running_proxy

OWN_SETTINGS = {"PREFERRED_PROVIDER": "anthropic", "LOG_FORMAT": "json", "UPSTREAM_TIMEOUT": "30"}
"""With limits that nothing reaches but what hangs, and that end before a client gives up."""
_SOCKET = re.compile(r"socket:\[\d+\]")
_SETTLING_SECONDS = 20.0
_WARMING_UP = 10


@dataclass
class Result:
    """The outcome of one row on one wire, streamed or not."""

    row: Row
    voice: str
    streams: bool
    seconds: float | None = None
    problems: list[str] = field(default_factory=list)


def seems_blocked(results: Sequence[Result]) -> bool:
    """Return whether the only problem is a blocked event loop, as it seems to be on a busy machine."""
    problems = [problem for result in results for problem in result.problems]
    return bool(problems) and all(problem.startswith(BLOCKED) for problem in problems)


class Lab:
    """The part that all rows share: the servers that give tokens for Vertex AI."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        tokens = self._stack.enter_context(serving(new_token_servers(TokenServers())))
        self._credentials = str(write_service_account(self.directory, tokens.url))

    def close(self) -> None:
        self._stack.close()

    def run(self, row: Row, voices: Sequence[Voice] = VOICES) -> list[Result]:
        """Run a row on every wire, streamed and not.

        Where even the first request would fail, each wire has a process of its own: after failures in a row an
        upstream would not be asked for a while.
        """
        if row.scheme == "http":
            return self._run(row, voices)
        return [result for voice in voices for result in self._run(row, [voice])]

    def _run(self, row: Row, voices: Sequence[Voice]) -> list[Result]:
        """Run a row in one process; the problems of the process as a whole go into the first result."""
        results: list[Result] = []
        try:
            self._run_in_town(row, voices, results)
        except AssertionError as error:  # the process blocked its loop, showed a key or did not start or end
            results = results or [Result(row, voices[0].name, True)]
            lines = str(error).splitlines()
            blocks = [line for line in lines if line.startswith(BLOCKED)]
            results[0].problems += blocks or ["\n".join(lines[-20:])]
        return results

    def _run_in_town(self, row: Row, voices: Sequence[Voice], results: list[Result]) -> None:
        with self._town(row, voices) as (proxy, upstreams):
            providers = [list(group) for _, group in groupby(voices, lambda voice: voice.provider)]
            sockets = _count_sockets(proxy) + 1  # google-auth keeps its connection to the server of tokens

            def run_provider(group: list[Voice]) -> list[Result]:
                return list(_run_provider(row, group, proxy, upstreams[group[0].provider]))

            with ThreadPoolExecutor(1 if row.heavy else len(providers)) as pool:
                for found in pool.map(run_provider, providers):
                    results += found
            results[0].problems += _check_process(proxy, sockets)

    @contextmanager
    def _town(self, row: Row, voices: Sequence[Voice]) -> Iterator[tuple[Proxy, Mapping[str, FaultyUpstream]]]:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self.directory)))
            settings = {**OWN_SETTINGS, "GOOGLE_APPLICATION_CREDENTIALS": self._credentials}
            upstreams: dict[str, FaultyUpstream] = {}
            for voice in voices:
                if voice.provider not in upstreams:
                    kin = [other for other in voices if other.provider == voice.provider]
                    upstreams[voice.provider] = FaultyUpstream(kin)
                    stack.callback(upstreams[voice.provider].close)
                settings[voice.address] = f"{row.scheme}://{upstreams[voice.provider].address}{voice.path}"
                settings |= dict(voice.settings)
            proxy = stack.enter_context(running_proxy(directory, {**settings, **row.settings}))
            yield proxy, upstreams


def _run_provider(row: Row, voices: Sequence[Voice], proxy: Proxy, upstream: FaultyUpstream) -> Iterator[Result]:
    if row.scheme == "http":
        _warm_up(Scene(voices[0], True, _port(proxy), upstream))
    for voice in voices:
        for streams in (True, False):
            case = row.case(voice, streams)
            if case is None:
                continue
            scene = Scene(voice, streams, _port(proxy), upstream)
            result = Result(row, voice.name, streams)
            if row.scheme == "http":
                result.problems += [f"before the row: {problem}" for problem in _serve_well(scene)]
            _run_one(result, scene, case)
            yield result
        if row.scheme == "http":
            result.problems += [f"after the row: {problem}" for problem in _serve_well(scene)]


def _warm_up(scene: Scene) -> None:
    """Ask until the tokens and facts are there that the first request has to wait for."""
    scene.upstream.play(HEALTHY)
    for _ in range(_WARMING_UP):
        if ask(scene).answer.status == 200:
            return


def _serve_well(scene: Scene) -> list[str]:
    """Return the problems of a request to which nothing happens; its success also counts as the upstream's."""
    scene.upstream.play(HEALTHY)
    problems = list(check_answer(Complete(), ask(scene).answer))
    scene.upstream.settle()
    return problems


def _run_one(result: Result, scene: Scene, case: Case) -> None:
    row, upstream = result.row, scene.upstream
    upstream.play(*row.scripts)
    if row.arm is not None:
        row.arm(upstream)
    seen = row.ask(scene)
    if row.arm is not None:
        upstream.recover()
    problems = [*seen.problems, *check_answer(case.expected, seen.answer)]
    result.problems += problems
    result.seconds = seen.seconds
    if row.arm is None and row.scheme == "http" and upstream.asked != case.calls:
        result.problems.append(f"{upstream.asked} calls instead of {case.calls}")
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
    deadline = time.monotonic() + _SETTLING_SECONDS
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
