"""The pictures of single commands in docs/pictures, from real runs: `python3 scripts/ci.py pictures`.

Test servers replace the providers, so that no key is needed. `explain` and `config show` contact no provider at all.
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.site.pages import DOCS
from tests.site.terminal_drawing import COLUMNS, draw
from tests.support.fakes.compatible import KINDS, new_server
from tests.support.fakes.openai_chat import KEY, new_openai
from tests.support.fakes.server import Running, serving
from tests.support.server_process import running_proxy

SECONDS = 120
_MOVE = re.compile(r"\r|\n|\x1b\[1A|\x1b\[2K|\x1b\[\?25[lh]")
"""Matches the control sequences by which a command repeats a table."""
_REQUEST = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 64_000,
    "top_k": 40,
    "stop_sequences": ["END"],
    "metadata": {"user_id": "u"},
    "messages": [{"role": "user", "content": "hello"}],
}
_SETTINGS = """\
OPENAI_API_KEY=sk-0123456789abcdef4f2a
GROQ_API_KEY=gsk_0123456789abcdef77c1
PREFERRED_PROVIDER=openai
BIG_MODEL=gpt-5.5
SMALL_MODEL=groq/llama-3.3-70b-versatile
FALLBACK_SONNET=groq/openai/gpt-oss-120b
"""
_PRICES = """\
[prices]
"openai/gpt-5.5" = { input = 5, cache_read = 0.5, output = 30 }
"openai/gpt-5.4" = { input = 2.5, cache_read = 0.25, output = 15 }
"""


def run_on_terminal(words: Sequence[str], folder: Path, settings: Mapping[str, str]) -> list[str]:
    """Run a command on a terminal of `COLUMNS` and return the lines that are visible at its end, with colors."""
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 50, COLUMNS, 0, 0))
    own = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "ANTHROPIC_PROXY_CONFIG": str(folder),
        "PYTHONPATH": str(DOCS.parent),
        "TERM": "xterm",
    }
    command = [sys.executable, "-m", "anthropic_proxy", *words]
    with subprocess.Popen(
        command, cwd=folder, env={**own, "TZ": "UTC", **settings}, stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        output = b""
        with contextlib.suppress(OSError):  # the terminal has no writer any more
            while received := os.read(reader, 65_536):
                output += received
        process.wait(SECONDS)
    os.close(reader)
    return show_screen(output.decode().replace(str(folder), "~"))


def show_screen(output: str) -> list[str]:
    """Return the visible lines of a terminal after all output, in which lines are only replaced as a whole."""
    lines, row, position = [""], 0, 0
    for move in _MOVE.finditer(output):
        lines[row] += output[position : move.start()]
        position = move.end()
        if move[0] == "\n":
            row += 1
            lines += [""] * (row - len(lines) + 1)
        elif move[0] == "\x1b[1A":
            row -= 1
        elif move[0] == "\x1b[2K":
            lines[row] = ""
    lines[row] += output[position:]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def record_demo(folder: Path) -> dict[str, list[str]]:
    """Return the lines of `ask` and `logs` with the built-in demo."""
    with running_proxy(folder, {}) as proxy:
        port = {"PORT": proxy.url.rpartition(":")[2]}
        asked = run_on_terminal(["ask", "hello"], folder, port)
        run_on_terminal(["ask", "What is the weather in Paris?"], folder, port)
        proxy.client().post("/v1/messages", json={**_REQUEST, "max_tokens": 20, "metadata": None})
        proxy.client().post("/v1/messages", json={**_REQUEST, "model": 7})
        logged = run_on_terminal(["logs", "--no-follow", "-n", "4"], folder, port)
    return {'ask "hello"': asked, "logs": logged}


def record_doctor(folder: Path) -> list[str]:
    """Return the lines of `doctor` with test servers for three providers."""
    names = ("groq", "moonshot", "xai")
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(serving(new_server(name))) for name in names}
        settings = {"PREFERRED_PROVIDER": "xai", "SMALL_MODEL": "groq/llama-3.3-70b-versatile"}
        settings |= {"BIG_MODEL": "xai/grok-4.3", "MIDDLE_MODEL": "moonshot/kimi-k2.6"}
        for name, server in servers.items():
            settings |= _server_settings(name, server)
        return run_on_terminal(["doctor", "--no-learn"], folder, settings)


def record_models(folder: Path) -> list[str]:
    (folder / "anthropic-proxy.toml").write_text(_PRICES)  # no price list has those of a test server
    with serving(new_openai()) as server:
        settings = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{server.url}/v1", "PREFERRED_PROVIDER": "openai"}
        settings |= {"BIG_MODEL": "gpt-5.5", "SMALL_MODEL": "gpt-5.4"}
        return run_on_terminal(["models"], folder, settings)


def record_settings(folder: Path) -> dict[str, list[str]]:
    """Return the lines of `explain` and `config show` with a `.env`."""
    (folder / ".env").write_text(_SETTINGS)
    (folder / "request.json").write_text(json.dumps(_REQUEST))
    return {
        "explain request.json": run_on_terminal(["explain", "request.json"], folder, {}),
        "config show": run_on_terminal(["config", "show"], folder, {}),
    }


def write_recordings() -> None:
    """Run all commands and write their pictures."""
    recorded: dict[str, list[str]] = {}
    with (
        tempfile.TemporaryDirectory() as programs,
        tempfile.TemporaryDirectory() as first,
        tempfile.TemporaryDirectory() as second,
    ):
        # in PATH, as its installers put it: texts name it without its path
        (Path(programs) / "anthropic-proxy").symlink_to(Path(sys.executable).with_name("anthropic-proxy"))
        os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
        recorded |= record_demo(Path(first))
        recorded["doctor"] = record_doctor(Path(first))
        recorded["models"] = record_models(Path(first))
        recorded |= record_settings(Path(second))
    for command, lines in recorded.items():
        name = re.sub(r"\W+", "-", command.partition(" ")[0] if command != "config show" else command)
        label = f"Terminal: output of anthropic-proxy {name.replace('-', ' ')}"
        drawn = draw([f"$ anthropic-proxy {command}", *lines], label)
        (DOCS / f"pictures/{name}.svg").write_text(drawn, "utf-8")


def _server_settings(name: str, server: Running) -> dict[str, str]:
    kind = KINDS[name]
    prefix = name.upper()
    return {
        f"{prefix}_API_KEY": kind.key,
        f"{prefix}_BASE_URL": server.url + kind.path.removesuffix("/chat/completions"),
    }


if __name__ == "__main__":
    write_recordings()
