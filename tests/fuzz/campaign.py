"""Campaign against one target in a process of its own, guided by the coverage of the package if atheris is installed.

Without it the same mutations are made of the seeds alone, and it reports so. Counted are inputs and bytes, never time.
"""

import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

DEFAULT_BYTES = 10_000_000
HANG_SECONDS = 60
"""After which one input is taken to hang, and the process ends with its stacks."""
MEMORY_MIB = 2048
_PROGRESS = re.compile(rb"#\d+\s+(INITED|NEW|REDUCE|pulse|DONE|RELOAD)\s+cov: (\d+) ft: (\d+)")


@dataclass(frozen=True)
class Figures:
    """Result of one campaign."""

    summary: str
    before: int
    after: int

    def __str__(self) -> str:
        guided = f"; coverage {self.before:,} → {self.after:,} branches" if self.after else "; not guided by coverage"
        return self.summary + guided


def read_figures(output: bytes, trace: bytes) -> Figures | str:
    """Return the figures of a campaign, from its own output and that of the fuzzer."""
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.startswith("figures: ")]
    if not lines:
        return "ended without figures"
    found = _PROGRESS.findall(trace)
    return Figures(
        lines[-1].removeprefix("figures: "), int(found[0][1]) if found else 0, int(found[-1][1]) if found else 0
    )


class Campaign:
    """One target, its budget, and its findings."""

    def __init__(self, name: str, budget: int) -> None:
        from tests.fuzz.findings import Findings
        from tests.fuzz.mutations import Mutator
        from tests.fuzz.targets import TARGETS

        target = TARGETS[name]
        self.seeds = list(target.seeds())
        self.mutator = Mutator(self.seeds, target.headlines)
        self.findings = Findings(name, target.check)
        self._budget = budget + sum(map(len, self.seeds))
        """The fuzzer begins with the seeds, which would use up a small budget before the first mutation."""
        self._inputs = self._bytes = 0

    def feed(self, data: bytes) -> None:
        """Feed one input; ends the process when the budget is spent."""
        self._inputs += 1
        self._bytes += len(data)
        if self.findings.try_input(data):
            broken, file = list(self.findings.seen.items())[-1]
            print(f"found: {broken}, kept as {file.relative_to(Path.cwd())}", flush=True)
        if self._bytes >= self._budget:
            found = len(self.findings.seen)
            print(f"figures: {self._inputs:,} inputs, {self._bytes:,} bytes, {found} findings", flush=True)
            os._exit(int(found > 0))  # the fuzzer has no other end before its own


def main(name: str, budget: int, seed: int) -> None:
    try:
        import atheris  # type: ignore[import-untyped]  # only where scripts/ci.py fuzz has put it
    except ImportError:
        _unguided(Campaign(name, budget), seed)
        return
    with atheris.instrument_imports(include=["anthropic_proxy"], enable_loader_override=False):
        import anthropic_proxy.app
        import anthropic_proxy.engine.upstream.web_fetch  # noqa: F401

        campaign = Campaign(name, budget)

    def mutate(data: bytes, max_size: int, number: int) -> bytes:
        mutated = campaign.mutator.mutate(
            data, Random(number), lambda plain: atheris.Mutate(plain, max(1, len(plain) + 64))
        )
        return mutated[:max_size]

    with tempfile.TemporaryDirectory() as corpus:
        for position, given in enumerate(campaign.seeds):
            Path(corpus, f"{position:05}").write_bytes(given)
        options = [f"-seed={seed}", f"-timeout={HANG_SECONDS}", f"-rss_limit_mb={MEMORY_MIB}", "-max_len=65536"]
        options += ["-len_control=0", f"-artifact_prefix={_prefix(name)}", corpus]
        atheris.Setup([sys.argv[0], *options], campaign.feed, custom_mutator=mutate)
        atheris.Fuzz()


def _unguided(campaign: Campaign, seed: int) -> None:
    random = Random(seed)
    for given in campaign.seeds:
        campaign.feed(given)
    while True:
        campaign.feed(campaign.mutator.mutate(random.choice(campaign.seeds), random))


def _prefix(name: str) -> str:
    from tests.fuzz.findings import KEPT

    folder = KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    return f"{folder}{os.sep}"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
