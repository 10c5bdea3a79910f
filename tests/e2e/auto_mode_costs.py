"""What auto mode costs in a session of the real Claude Code: without it, with the client's own classifier, with checks.

The session has 60 tool calls. Ten of them are commands that are worth a check. The model is a script behind a fake with
OpenAI's prefix cache, which counts four bytes as a token. `python -m tests.e2e.auto_mode_costs` prints the table of
docs/guide/auto-mode.md, and writes it with `--write`.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anthropic_proxy.gateway.settings import CONFIG_FILE
from tests.e2e.claude import run_claude
from tests.e2e.npm import install
from tests.support.cache_sessions import ROWS, Figures
from tests.support.fakes.prefix_cache import CachingProvider, Script, new_caching_provider
from tests.support.fakes.server import serving
from tests.support.paths import ROOT
from tests.support.secret_canaries import new_canary
from tests.support.server_process import running_proxy

PAGE = ROOT / "docs/guide/auto-mode.md"
BEGIN = "<!-- costs: begin, written by python -m tests.e2e.auto_mode_costs --write -->\n"
END = "<!-- costs: end -->"
VERSION = "2.1.332"
CALLS, CHECKED = 60, 10
_ROW = next(row for row in ROWS if row.title == "OpenAI, Chat, gpt-4.1")
_CHARACTERS = 8_000
"""Size of each file that the session reads: some 200 lines."""
_VERDICT = json.dumps({"rule": "Building and testing", "verdict": "not_flagged", "explanation": ""})
_KINDS = ("main", "classifier", "check")


@dataclass
class CheckingProvider(CachingProvider):
    """It answers checks and the questions of Claude Code's classifier beside the script."""

    kinds: list[str] = field(default_factory=list)

    def next_step(self, body: dict[str, Any]) -> tuple[str, Mapping[str, Any]] | str:
        text = json.dumps(body)
        kind = "check" if "safety check of a coding agent" in text else "classifier" if "</block>" in text else "main"
        self.kinds.append(kind)
        if kind == "main":
            return self.script[self.kinds.count("main") - 1]
        return _VERDICT if kind == "check" else "<block>no"

    def select(self, *kinds: str) -> Figures:
        calls = [call for call, kind in zip(self.calls, self.kinds, strict=True) if kind in kinds]
        return Figures(calls, 0, [])


def plan_session(work: Path) -> Script:
    """Write the files of the session, and return what the model does."""
    steps: Script = []
    line = "The text of a file of the project, as long as the files of a project usually are.\n"
    for number in range(CALLS):
        if number % (CALLS // CHECKED) == 3:
            steps.append(("Bash", {"command": f"python3 -c 'print({number})' && echo tested", "description": "Test"}))
        elif number % 5 == 0:
            steps.append(("Bash", {"command": "ls -la", "description": "List the files"}))
        else:
            path = work / f"part{number}.txt"
            path.write_text(line * (_CHARACTERS // len(line)), "utf-8")
            steps.append(("Read", {"file_path": str(path)}))
    return [*steps, "All parts are done."]


def run_session(folder: Path, mode: str) -> CheckingProvider:
    """Play the session. `mode`: value of `mode` of `[auto_mode]`, or "" without auto mode."""
    work, place = folder / "work", folder / "server"
    for each in (work, place):
        each.mkdir(parents=True)
    provider = CheckingProvider(plan_session(work), _ROW.cache)
    (program,) = sorted((install("@anthropic-ai/claude-code", VERSION) / "@anthropic-ai").glob("claude-code-*/claude"))
    with serving(new_caching_provider(provider)) as fake:
        table = f'[providers.measured]\nbase_url = "{_ROW.address}"\nwire = "{_ROW.wire}"\n'
        auto_mode = f'[auto_mode]\nmode = "{mode or "check"}"\n'
        (place / CONFIG_FILE).write_text(auto_mode + table + 'api_key = { env = "MEASURED_API_KEY" }\n', "utf-8")
        model = f"measured/{_ROW.model}"
        settings = dict.fromkeys(("BIG_MODEL", "MIDDLE_MODEL", "SMALL_MODEL"), model)
        settings |= {"MEASURED_API_KEY": new_canary("sk-fake-"), "HTTP_PROXY": fake.url, "NO_PROXY": "127.0.0.1"}
        with running_proxy(place, settings) as proxy:
            options = ("--permission-mode", "auto") if mode else ("--allowedTools", "Bash Read")
            # without this variable, Claude Code has its own classifier
            more = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": ""}
            run = run_claude(program, proxy.url, work, "Do all parts of the work.", *options, **more)
            assert "Traceback" not in proxy.log
    assert run.text == "All parts are done.", run.stderr
    assert not [result for result in run.results() if result.get("is_error")]
    assert provider.kinds.count("main") == CALLS + 1
    return provider


def describe(title: str, provider: CheckingProvider, plain: Figures) -> str:
    asked = provider.select("classifier", "check")
    price = _ROW.price
    assert price is not None
    dollars, share = asked.dollars(price), asked.dollars(price) / plain.dollars(price)
    total = provider.select(*_KINDS)
    cells = [f"{len(asked.calls)}", f"{asked.input_tokens:,}", f"{dollars:.4f}", f"{share:.1%}"]
    cells += [f"{total.input_tokens:,}", f"{total.dollars(price):.2f}"]
    return f"| {title} | {' | '.join(cells)} |"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        without, client, check = (
            run_session(Path(folder, mode or "without"), mode) for mode in ("", "client", "check")
        )
    plain = without.select("main")
    lines = [
        "| | questions | their input tokens | their $ | share of the session | input tokens of all | $ of all |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        describe("without auto mode", without, plain),
        describe('`mode = "client"`', client, plain),
        describe('`mode = "check"`', check, plain),
    ]
    head = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(head, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    table = "\n".join([*lines, "", f"Measured with commit `{commit}`."]) + "\n"
    print(table)
    if "--write" in sys.argv:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{table}{END}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    main()
