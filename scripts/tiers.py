"""The tiers of the gate, for scripts/ci.py: a step that fails does not stop the others. Standard library only."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from environments import ROOT

STEP_SECONDS = 2700
ALL_TESTS = "tests/unit tests/integration tests/conformance tests/matrix tests/processes tests/repository"
"""Also those that the README's test command leaves out; pytest ignores a folder that is named beside its parent."""
FAILURE = re.compile(r"FAILED|FAILS|^ERROR|^E  |error:|crashed")
SKIP = re.compile(r"nothing was tested|not looked up|\b\d+ skipped\b")


STEPS_AT_A_TIME = 3
"""More than the usual number of processors, because half of each step is waiting."""


class Tier(NamedTuple):
    """Steps, as shell commands. Those of one tuple run together; the longest begin, so that none runs alone at last."""

    groups: tuple[tuple[str, ...], ...]
    limit_seconds: int


def part(*names: str) -> tuple[str, ...]:
    """Return the commands of parts of scripts/ci.py."""
    return tuple(f"python3 scripts/ci.py {name}" for name in names)


def readme_test_command() -> str:
    """Return the second command of the README, which runs the tests."""
    return re.findall(r"^```sh\n(.*?)\n```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)[1]


def tiers() -> dict[str, Tier]:
    """Return all tiers. Steps that measure the machine's time or processor stand alone in their group."""
    merge = (
        (readme_test_command(),),
        (
            "python3 scripts/test.py -n 3 tests/processes tests/repository",
            *part("e2e -n 2 --dist loadfile", "databases"),
            "python3 scripts/test.py -n 2 -m merge tests/unit tests/integration tests/conformance",
            *part("pages", "packages", "redis"),
            "python3 scripts/check.py --static",
            *part("fleet bills 200", "strangers"),
        ),
        (
            "python3 scripts/test.py -n 2 tests/attacks tests/faults tests/fuzz tests/growth",
        ),  # some rows; the nightly tier has all
    )
    nightly = (
        part("hidden-posix"),
        (
            f"python3 scripts/test.py --thorough -m hypothesis {ALL_TESTS}",
            f"python3 scripts/test.py -n 2 -m slow {ALL_TESTS}",
            *part("later-day -n 2"),
        ),
        part(
            *("growth", "faults", "litellm", "fuzz all 300000", "differential", "deployment", "docs", "prometheus"),
            *(
                "audit",
                "facts",
                "catalogues",
                "clients",
                "engine",
                "conformance",
                "e2e -m slow",
                "packages -m slow",
                "pages -m slow",
                "databases -m slow",
                "redis valkey",
            ),
        ),
        *(part(name) for name in ("attacks", "soak 2", "fleet outages", "fleet limits", "fleet bills", "company")),
        part("bench --quick --wires --features --rounds 1"),  # for the replies, all of which are checked
    )
    return {"merge": Tier(merge, 6600), "nightly": Tier(nightly, 7200)}


class Step:
    """One command: its output, exit status and duration in seconds."""

    def __init__(self, command: str, *, live: bool) -> None:
        self.command = command
        self.lines: list[str] = []
        self.status = 1
        self.seconds = 0.0
        self._live = live

    def run(self, deadline: float) -> None:
        """Run it until it ends or the time is used up. With `live`, output is printed meanwhile, else at the end."""
        start = time.monotonic()
        if self._live:
            print(f"\n--- {self.command}", flush=True)
        left = min(deadline - start, STEP_SECONDS)
        if left <= 0:
            self.lines.append("error: not run, because the steps before it used all time of this tier\n")
            return
        # A session of its own: a command that asks for the terminal fails, and all its processes end with it.
        process = subprocess.Popen(
            shlex.split(self.command),
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        reader.start()
        try:
            self.status = process.wait(left)
        except subprocess.TimeoutExpired:
            self.lines.append(f"error: ended after {left:.0f} s\n")
            self.status = 1
            os.killpg(process.pid, signal.SIGABRT)  # the processes of Python print their stacks
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        reader.join(10)  # a process that the command left behind may hold the pipe
        self.seconds = time.monotonic() - start
        if not self._live:
            print(f"\n--- {self.command}\n{''.join(self.lines)}", end="", flush=True)
        print(f"--- {self.command}: {'FAILED' if self.status else 'passed'} after {self.seconds:.0f} s", flush=True)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.append(line)
            if self._live:
                print(line, end="", flush=True)

    def failure(self) -> str:
        """Return the lines that tell why it failed."""
        found = [line for line in self.lines if FAILURE.search(line)][-30:]
        return "".join((f"\n{self.command}\n", *found, *(line for line in self.lines[-5:] if line not in found)))


def run(name: str, words: Sequence[str]) -> int:
    """Run a tier, or those of its steps in which one of the words is a word. Return the exit status."""
    tier = tiers()[name]
    commands = [command for group in tier.groups for command in group]
    if unknown := [word for word in words if not any(word in command.split() for command in commands)]:
        every = ", ".join(commands)
        sys.exit(f"No step of the tier {name} has the word {' or '.join(unknown)}. The steps are: {every}")
    start = time.monotonic()
    done: list[Step] = []
    for group in tier.groups:
        chosen = [command for command in group if not words or set(words) & set(command.split())]
        steps = [Step(command, live=len(chosen) == 1) for command in chosen]
        with ThreadPoolExecutor(STEPS_AT_A_TIME) as pool:
            for future in [pool.submit(step.run, start + tier.limit_seconds) for step in steps]:
                future.result()
        done += steps
    minutes = (time.monotonic() - start) / 60
    failed = [step for step in done if step.status]
    if skips := [f"{step.command}: {line}" for step in done for line in step.lines if SKIP.search(line)]:
        print(f"\nNot tested here:\n{''.join(skips)}", end="")
    for step in failed:
        print(step.failure(), end="")
    print(
        "\nDurations: "
        + ", ".join(f"{step.command.removeprefix('python3 scripts/')} {step.seconds:.0f} s" for step in done)
    )
    if failed:
        print(f"\n{name} FAILED after {minutes:.0f} min: {'; '.join(step.command for step in failed)}")
        return 1
    print(f"\n{name} passed: all {len(done)} steps in {minutes:.0f} min")
    return 0
