"""Runs the real Claude Code without a terminal and reads its actions."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.npm import install

VERSION = "2.1.330"  # pinned: an unpinned installation resolves to an older release where node is older than it wants
TIMEOUT_SECONDS = 240
CLIENT_KEY = "sk-the-clients-own"
NOTES = "rye bread\nsalted butter\n"


def find_claude(version: str = VERSION) -> Path:
    """Return the native program, which the package for this platform brings; it needs no node."""
    found = sorted((install("@anthropic-ai/claude-code", version) / "@anthropic-ai").glob("claude-code-*/claude"))
    assert found, "no package of Claude Code for this platform"
    return found[0]


@dataclass(frozen=True)
class Run:
    """One finished run. `events` are the lines of its JSON stream."""

    events: list[dict[str, Any]]
    stderr: str
    returncode: int

    @property
    def result(self) -> dict[str, Any]:
        return next((event for event in reversed(self.events) if event["type"] == "result"), {})

    @property
    def text(self) -> str:
        """The answer, or the words of the failure."""
        return str(self.result.get("result", ""))

    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the tools that ran, with their arguments, in order."""
        return [(block["name"], block["input"]) for block in self._blocks("assistant", "tool_use")]

    def results(self) -> list[dict[str, Any]]:
        return self._blocks("user", "tool_result")

    def _blocks(self, speaker: str, kind: str) -> list[dict[str, Any]]:
        contents = [event["message"]["content"] for event in self.events if event["type"] == speaker]
        return [
            block for content in contents if isinstance(content, list) for block in content if block["type"] == kind
        ]


def environment(url: str, home: Path, **more: str) -> dict[str, str]:
    """Return an environment in which Claude Code knows this server and can reach nothing else."""
    nowhere = "http://127.0.0.1:9"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home),
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": CLIENT_KEY,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "HTTPS_PROXY": nowhere,
        "HTTP_PROXY": nowhere,
        "NO_PROXY": "127.0.0.1,localhost",
    } | more


def run_claude(
    program: Path,
    url: str,
    directory: Path,
    prompt: str | list[dict[str, Any]],
    *options: str,
    home: Path | None = None,
    **more: str,
) -> Run:
    """Run `claude -p` in a directory; `more` are further variables of its environment.

    A prompt of blocks goes in by its JSON stream, as that of an editor which pastes pictures.
    """
    home = home or directory.parent / "home"
    home.mkdir(exist_ok=True)
    command = [str(program), "-p", "--output-format", "stream-json", "--verbose", *options]
    stdin_text = ""
    if isinstance(prompt, str):
        command.insert(2, prompt)
    else:
        command += ["--input-format", "stream-json"]
        stdin_text = json.dumps({"type": "user", "message": {"role": "user", "content": prompt}}) + "\n"
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment(url, home, **more),
        input=stdin_text,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return Run([json.loads(line) for line in lines], done.stderr + done.stdout[-2_000:], done.returncode)


def do_the_task(program: Path, url: str, work: Path, **more: str) -> Run:
    """Have Claude Code read a file, write another, edit the first and read back, over four turns; return the run.

    That it did all of it is asserted here; `more` are further variables of its environment.
    """
    notes, target = work / "notes.txt", work / "loud.txt"
    notes.write_text(NOTES)
    target.unlink(missing_ok=True)
    prompt = f"Read {notes} and write its words in upper case to {target}"
    run = run_claude(program, url, work, prompt, "--allowedTools", "Read Write Edit", **more)
    assert run.returncode == 0, run.stderr
    assert target.read_text() == NOTES.upper()
    assert notes.read_text() == f"done: {NOTES}"
    assert [name for name, _ in run.calls()] == ["Read", "Write", "Edit", "Read"]
    assert not any(result.get("is_error") for result in run.results())
    assert run.text == f"{target} now holds: {NOTES.upper().strip()}"
    return run
