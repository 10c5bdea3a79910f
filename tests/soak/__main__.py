"""`python -m tests.soak [minutes] [seed]`."""

import asyncio
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.soak.clients import ClientPool
from tests.soak.resources import ResourceUsage, count, settle
from tests.soak.server import COUNTS_FILE
from tests.support.fakes import anthropic, gemini, ollama, openai_responses
from tests.support.fakes.compatible import KINDS, new_server
from tests.support.fakes.server import Running, serving
from tests.support.server_process import Proxy, running_proxy

CLIENTS = 24
WARM_UP = 600
"""Requests before the first count: buffers, caches and pools have their size then."""
GROWTH_KIB, GROWTH_REQUESTS = 20 * 1024, 3_000
REPORT_SECONDS = 60.0


class Soak:
    """One run."""

    def __init__(self, minutes: float, seed: int) -> None:
        self._seconds = minutes * 60
        self._seed = seed
        self._stack = ExitStack()
        self._providers: list[Running] = []
        self.problems: list[str] = []

    def run(self) -> None:
        with self._stack, tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            counts = directory / "counts.json"
            with self._providing() as settings:
                own = {**settings, COUNTS_FILE: str(counts), "UPSTREAM_TIMEOUT": "20", "LOG_LEVEL": "debug"}
                with running_proxy(directory, own, ("-m", "tests.soak.server")) as proxy:
                    self._soak(proxy, counts)
                    self._expect(proxy.stop() == 0, "the server did not end well")
                self._expect("Traceback" not in proxy.log, proxy.log[proxy.log.find("Traceback") - 500 :][:4_000])
                self._expect("never retrieved" not in proxy.log, "a task's exception was never retrieved")

    def _soak(self, proxy: Proxy, counts: Path) -> None:
        crowd = ClientPool(proxy.url, self._seed)
        asyncio.run(crowd.work(CLIENTS, 600, WARM_UP))
        base = self._settle(proxy, counts, None)
        warm = crowd.tally.requests
        print(f"after {warm:,} requests to warm up: {base}", flush=True)
        deadline = time.monotonic() + self._seconds
        while (left := deadline - time.monotonic()) > 0:
            asyncio.run(crowd.work(CLIENTS, min(left, REPORT_SECONDS)))
            print(f"{crowd.tally.requests:,} requests: {count(proxy, counts)}", flush=True)
            for provider in self._providers:
                provider.journal.exchanges.clear()
        after = self._settle(proxy, counts, base)
        print(f"after a pause: {after}")
        print(", ".join(f"{number:,} {name}" for name, number in sorted(crowd.tally.outcomes.items())))
        self._judge(crowd, base, after, crowd.tally.requests - warm)

    def _settle(self, proxy: Proxy, counts: Path, wanted: ResourceUsage | None) -> ResourceUsage:
        """Return the resources in use without any request. Connections kept for later are closed by their other end."""
        for provider in self._providers:
            provider.hang_up()
        return settle(proxy, counts, wanted)

    def _judge(self, crowd: ClientPool, base: ResourceUsage, after: ResourceUsage, requests: int) -> None:
        growth = (after.memory - base.memory) * GROWTH_REQUESTS / max(requests, GROWTH_REQUESTS)
        print(f"memory grew by {(after.memory - base.memory) / 1024:.1f} MiB in {requests:,} requests")
        self._expect(growth < GROWTH_KIB, f"memory grows by {growth / 1024:.1f} MiB in {GROWTH_REQUESTS:,} requests")
        self.problems += [f"left over: {excess}" for excess in after.exceeds(base)]
        self.problems += crowd.tally.wrong[:20]
        self._expect(len(crowd.tally.wrong) <= 20, f"and {len(crowd.tally.wrong) - 20} more")

    def _expect(self, fact: bool, what: str) -> None:
        if not fact:
            self.problems.append(what)

    @contextmanager
    def _providing(self) -> Iterator[Mapping[str, str]]:
        """Serve a stand-in for each wire; yield the settings that lead there."""
        groq = KINDS["groq"]
        yield {
            "PREFERRED_PROVIDER": "openai",
            "OPENAI_API_KEY": openai_responses.KEY,
            "OPENAI_BASE_URL": f"{self._serve(openai_responses.new_openai())}/v1",
            "OPENAI_WIRE": "responses",
            "GROQ_API_KEY": groq.key,
            "GROQ_BASE_URL": f"{self._serve(new_server('groq'))}{groq.path.removesuffix('/chat/completions')}",
            "GEMINI_API_KEY": gemini.KEY,
            "GEMINI_BASE_URL": f"{self._serve(gemini.new_gemini())}/v1beta",
            "OLLAMA_API_BASE": self._serve(ollama.new_ollama()),
            "MODEL_SONNET": "anthropic/claude-sonnet-5-5",
            "ANTHROPIC_API_KEY": anthropic.KEY,
            "ANTHROPIC_UPSTREAM_URL": self._serve(anthropic.new_anthropic()),
        }

    def _serve(self, application: object) -> str:
        running = self._stack.enter_context(serving(application))  # type: ignore[arg-type]
        self._providers.append(running)
        return running.url


def main(arguments: list[str]) -> int:
    minutes, seed = (*arguments, *("2", "1")[len(arguments) :])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4_096)), hard))
    print(f"seed {seed}, {minutes} minutes, {CLIENTS} clients", flush=True)
    soak = Soak(float(minutes), int(seed))
    soak.run()
    for problem in soak.problems:
        print(f"✕ {problem}")
    print("The soak found " + (f"{len(soak.problems)} problems." if soak.problems else "nothing left over."))
    return int(bool(soak.problems))


if __name__ == "__main__":
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # clients that leave are its errors
    sys.exit(main(sys.argv[1:]))
