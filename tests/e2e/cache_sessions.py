"""A session of ten turns of the real Claude Code, in which its tool search loads tools three times.

Each provider of the table is a scripted model with a prefix cache (`tests/support/fakes/prefix_cache.py`).
`python -m tests.e2e.cache_sessions` prints the table of docs/guide/prompt-caches.md, and writes it with `--write`.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anthropic_proxy.gateway.settings import CONFIG_FILE
from tests.e2e import many_tools_server
from tests.e2e.claude import environment, find_claude
from tests.support.cache_sessions import RELAYS, ROWS, Figures, Row
from tests.support.fakes.prefix_cache import CachingProvider, Script, new_caching_provider
from tests.support.fakes.server import serving_strictly
from tests.support.paths import ROOT
from tests.support.secret_canaries import new_canary
from tests.support.server_process import running_proxy

PAGE = ROOT / "docs/guide/prompt-caches.md"
BEGIN = "<!-- cache sessions: begin, written by python -m tests.e2e.cache_sessions --write -->\n"
END = "<!-- cache sessions: end -->"
TURNS = 10
LOADS = {2: ("mcp__many__tool_7",), 5: ("mcp__many__tool_31", "mcp__many__tool_12"), 8: ("CronList",)}
"""Turn → tools that it loads and then calls: those of an MCP server, and one of Claude Code."""
_DEFERRED_TOOLS = 60
_FIRST_FILES, _FIRST_CHARACTERS, _CHARACTERS = 3, 60_000, 2_000
"""Files that the first turn reads, the size of each, and the size of the file of each later turn."""


@dataclass(frozen=True)
class Turn:
    prompt: str
    steps: Script


def _write_file(work: Path, name: str, characters: int) -> Path:
    line = f"The text of {name}, which is read in a single turn, and is as long as it has to be for a measurement."
    count = characters // (len(line) + 6)
    (work / name).write_text("\n".join(f"{number} {line}" for number in range(count)) + "\n", "utf-8")
    return work / name


def plan_session(work: Path) -> list[Turn]:
    """Write the files of the session, and return its turns: the prompt, and what the model does."""
    turns = []
    for number in range(1, TURNS + 1):
        files = _FIRST_FILES if number == 1 else 1
        size = _FIRST_CHARACTERS if number == 1 else _CHARACTERS
        paths = [_write_file(work, f"part-{number}-{one}.txt", size) for one in range(1, files + 1)]
        steps: Script = [("Read", {"file_path": str(path)}) for path in paths]
        if names := LOADS.get(number, ()):
            steps.append(("ToolSearch", {"query": "select:" + ",".join(names), "max_results": 5}))
            steps += [(name, {"text": f"turn {number}"} if name.startswith("mcp__") else {}) for name in names]
        turns.append(Turn(f"Do part {number} of the work.", [*steps, f"Part {number} is done."]))
    return turns


def run_turns(program: Path, url: str, work: Path, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Play the turns in one process of Claude Code, and return all events of its JSON stream."""
    home = work.parent / "home"
    home.mkdir(exist_ok=True)
    server = {"type": "stdio", "command": sys.executable, "args": [many_tools_server.__file__, str(_DEFERRED_TOOLS)]}
    command = [str(program), "-p", "--verbose", "--input-format", "stream-json", "--output-format", "stream-json"]
    command += ["--mcp-config", json.dumps({"mcpServers": {"many": server}}), "--strict-mcp-config"]
    command += ["--allowedTools", "Read ToolSearch CronList mcp__many"]
    events: list[dict[str, Any]] = []
    with (work.parent / "claude.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=work,
            env=environment(url, home, ENABLE_TOOL_SEARCH="true"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for turn in turns:
                message = {"role": "user", "content": [{"type": "text", "text": turn.prompt}]}
                process.stdin.write(json.dumps({"type": "user", "message": message}) + "\n")
                process.stdin.flush()
                for line in process.stdout:
                    if line.startswith("{"):
                        events.append(json.loads(line))
                        if events[-1]["type"] == "result":
                            break
            process.stdin.close()
        finally:
            process.kill()
            process.wait()
    return events


def run_session(row: Row, folder: Path, *, lists_loaded_tools: bool = False) -> Figures:
    """Play the session through a proxy process, and check that Claude Code shows the token counts of the provider.

    `lists_loaded_tools`: loaded tools are added to the list of tools.
    """
    work, place = folder / "work", folder / "server"
    for each in (work, place):
        each.mkdir(parents=True)
    turns = plan_session(work)
    provider = CachingProvider([step for turn in turns for step in turn.steps], row.cache)
    with serving_strictly(new_caching_provider(provider)) as fake:
        table = f'[providers.measured]\nbase_url = "{row.address or fake.url + row.path}"\nwire = "{row.wire}"\n'
        table += 'api_key = { env = "MEASURED_API_KEY" }\n' if row.address else ""
        table += '[providers.measured.dialect]\nloaded_tools = "listed"\n' if lists_loaded_tools else ""
        if row.address_variable:
            table, settings = "", {**row.settings, row.address_variable: fake.url + row.path}
            settings["SMALL_MODEL"] = settings["BIG_MODEL"]
        else:
            model = f"measured/{row.model}"
            settings = {"BIG_MODEL": model, "SMALL_MODEL": model, "HTTP_PROXY": fake.url, "NO_PROXY": "127.0.0.1"}
            settings["MEASURED_API_KEY"] = new_canary("sk-fake-")
        (place / CONFIG_FILE).write_text(table, "utf-8")
        with running_proxy(place, settings) as proxy:
            events = run_turns(find_claude(), proxy.url, work, turns)
            assert "Traceback" not in proxy.log
            results = [event for event in events if event["type"] == "result"]
            assert [result["result"] for result in results] == [turn.steps[-1] for turn in turns], proxy.log[-3_000:]
    assert len(provider.calls) == len(provider.script)
    figures = Figures(provider.calls, len(turns[0].steps), [])
    (shown,) = results[-1]["modelUsage"].values()
    uncached = shown["inputTokens"] + shown["cacheCreationInputTokens"]
    assert uncached + shown["cacheReadInputTokens"] == figures.input_tokens
    if row.wire != "ollama":  # which reports no cached tokens
        assert shown["cacheReadInputTokens"] == sum(call.cached for call in provider.calls)
    return figures


def measure(row: Row, folder: Path) -> tuple[Figures, Figures]:
    """Return the figures with loaded tools in the list, and as the proxy places them."""
    return run_session(row, folder / "listed", lists_loaded_tools=True), run_session(row, folder / "placed")


def describe(row: Row, listed: Figures | None, placed: Figures) -> str:
    """Return the row of the table. `listed` None: a relay, where the client's list is forwarded."""
    both = (listed, placed)
    cells = [f"{placed.input_tokens:,}"]
    cells += [f"{one.cached_share:.1%}" if one else "–" for one in both]
    cells += [f"{one.read_again:,}" if one else "–" for one in both]
    cells += [f"{one.dollars(row.price):.2f}" if one and row.price else "–" for one in both]
    return f"| {row.title} | {' | '.join(cells)} |"


def documented_figures() -> dict[str, list[float]]:
    """Return the figures of the page, by provider. A server at home has no dollars."""
    _, _, table = PAGE.read_text("utf-8").partition(BEGIN)
    return {title: cells for title, *cells in map(_read_row, table.partition(END)[0].splitlines()[2:])}


def _read_row(line: str) -> list[Any]:
    title, *cells = line.strip("| ").split(" | ")
    return [title, *(float(cell.rstrip("%").replace(",", "")) for cell in cells if cell != "–")]


def figures_of(row: Row, listed: Figures | None, placed: Figures) -> list[float]:
    """Return the figures of the row in the form of the page."""
    return list(_read_row(describe(row, listed, placed)))[1:]


def main() -> None:
    lines = [
        "| provider | input tokens | cached, tools listed | cached | read again, tools listed | read again | "
        "$, tools listed | $ |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for number, row in enumerate(ROWS):
            lines.append(describe(row, *measure(row, Path(folder, str(number)))))
        lines += [describe(row, None, run_session(row, Path(folder, row.address_variable))) for row in RELAYS]
    table = "\n".join(lines) + "\n"
    print(table)
    if "--write" in sys.argv:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{table}{END}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    main()
