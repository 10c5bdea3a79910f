"""The terminal pictures with Claude Code in docs/pictures.

terminal.svg and code.svg are of a real run of the demo; the others are of sessions in tmux, where test servers replace
OpenAI and Ollama.
"""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.claude import find_claude
from tests.e2e.terminal import introduce
from tests.site.pages import DOCS
from tests.site.terminal_drawing import COLUMNS, draw
from tests.site.tmux import Tmux, running_in_tmux
from tests.support.fakes.ollama import new_ollama
from tests.support.fakes.openai_responses import KEY, new_openai
from tests.support.fakes.server import Running, serving
from tests.support.pdf import write_pdf
from tests.support.pictures import paint
from tests.support.server_process import free_port

PICTURE = DOCS / "pictures/terminal.svg"
LAUNCH = DOCS / "pictures/code.svg"
SESSION = DOCS / "pictures/claude-code.svg"
USE = DOCS / "pictures/use.svg"
TEXT_MODEL = DOCS / "pictures/model-of-text.svg"
BUDGET = {
    "own-budget-notice": "Claude Code: the status line says that 80 % of the budget of the day is used",
    "own-budget-used-up": "Claude Code: the budget of the day is used up, and until when",
}
"""Name of a picture of the documentation → its description."""
_QUESTION = "list the files here"


def record() -> list[str]:
    """Run the proxy without a provider, and Claude Code with it. Return the lines of both, with colors."""
    with tempfile.TemporaryDirectory() as folder:
        home, project, programs = (Path(folder) / name for name in ("home", "project", "programs"))
        for path in (home, project, programs):
            path.mkdir()
        # in PATH, as its installers put it: texts name it without its path
        (programs / "anthropic-proxy").symlink_to(Path(sys.executable).with_name("anthropic-proxy"))
        for name in ("README.md", "main.py"):
            (project / name).touch()
        port = free_port()
        environment = _environment(home, port, programs)
        command = [sys.executable, "-m", "anthropic_proxy"]
        with _server(command, project, environment) as log:
            while subprocess.run([*command, "health"], env=environment, capture_output=True, check=False).returncode:
                time.sleep(0.1)
            question = [*command, "code", "--", "-p", _QUESTION, "--allowedTools", "Bash"]
            plain = {**environment, "NO_COLOR": "1"}
            reply = subprocess.run(question, cwd=project, env=plain, capture_output=True, text=True, check=True).stdout
    banner, request = _split_log(log)
    session = [
        "$ anthropic-proxy",
        *banner,
        "",
        f'$ anthropic-proxy code -- -p "{_QUESTION}"',
        *reply.strip().splitlines(),
        "",
        *request,
    ]
    return [line.replace(f":{port}", ":8082") for line in session]


@contextmanager
def _server(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[list[str]]:
    """Run the server on a terminal of `COLUMNS`. Its lines are in the list at the end."""
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 40, COLUMNS, 0, 0))
    lines: list[str] = []
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=terminal, stderr=terminal) as server:
        os.close(terminal)
        yield lines
        server.terminate()
        output = b""
        with contextlib.suppress(OSError):  # the terminal has no writer any more
            while piece := os.read(reader, 65_536):
                output += piece
    os.close(reader)
    lines += output.decode().replace("\r", "").splitlines()


def record_claude_code() -> list[str]:
    """Run `anthropic-proxy code` in a terminal, ask for a command, and return the lines of the screen, with colors."""
    with tempfile.TemporaryDirectory() as folder, serving(new_openai()) as openai:
        project = _create_project(Path(folder))
        (project / "basket.py").write_text("def total(prices):\n    return sum(prices)\n")
        variables = _name_models(openai)
        # no list has the prices of a test server
        prices = '[prices."openai/*"]\ninput = 2\ncache_read = 0.5\noutput = 8\n'
        with _code(project, variables, prices, "Bash") as screen:
            screen.type("Run the command `python3 -m doctest basket.py && echo all tests pass`")
            return _shorten(screen.wait_for("The command said", "% of"), project)


def record_own_budget() -> list[list[str]]:
    """Use up a budget of a day in Claude Code. Return the screen with the notice, and with the refusal."""
    with tempfile.TemporaryDirectory() as folder, serving(new_openai()) as openai:
        # a reply of ten words, with its thinking, costs four dollars
        prices = '[prices."openai/*"]\ninput = 0\noutput = 54_100\n'
        project = _create_project(Path(folder))
        with _code(project, f"{_name_models(openai)}BUDGET=5USD/day\n", prices, "Read") as screen:
            screen.type("Count to 10")
            notice = _shorten(screen.wait_for("● 1 2 3", "budget today: 80 % used"), project)
            screen.type("Count to 11")
            screen.wait_for("10 11", "used up until")
            screen.type("Count to 12")
            return [notice, screen.wait_for("has used up its budget", "used up until")]


def record_use() -> list[str]:
    """Give a session another model from within, to which Claude Code replies. Return the screen."""
    with tempfile.TemporaryDirectory() as folder, serving(new_openai()) as openai:
        prices = '[prices."openai/*"]\ninput = 2\ncache_read = 0.5\noutput = 8\n'
        with _code(_create_project(Path(folder)), _name_models(openai), prices, "Read") as screen:
            screen.type("Say exactly: I am ready")
            screen.wait_for("● I am ready", "session $")
            screen.press("!")
            screen.type("anthropic-proxy use openai/gpt-5.4")
            return screen.wait_for("To end this", "openai/gpt-5.4 · chosen")


def _shorten(lines: list[str], project: Path) -> list[str]:
    return [line.replace(str(project), "~/shop") for line in lines]


def _name_models(openai: Running) -> str:
    address = f"OPENAI_API_KEY={KEY}\nOPENAI_BASE_URL={openai.url}/v1\n"
    return f"{address}BIG_MODEL=gpt-5.5\nSMALL_MODEL=gpt-5.4\n"


def record_model_of_text() -> list[str]:
    """Run Claude Code with a model of text, ask for a page of a PDF and for a screenshot, and return the screen."""
    with tempfile.TemporaryDirectory() as folder, serving(new_ollama()) as ollama:
        project = _create_project(Path(folder))
        (project / "terms.pdf").write_bytes(write_pdf("Terms of delivery", "Goods are sent within three days."))
        (project / "screenshot.png").write_bytes(paint((0, 144, 0), 64, 48))
        variables = f"OLLAMA_API_BASE={ollama.url}\nBIG_MODEL=llama3.2\nSMALL_MODEL=llama3.2\n"
        with _code(project, variables, '[images]\nmodel = "ollama/qwen3-vl:8b"\n', "Read") as screen:
            screen.type("What does page 2 of terms.pdf say?")
            screen.wait_for("● Page 2 says", "% of")
            screen.type("Look at the picture screenshot.png")
            lines = screen.wait_for("I was told that", "% of")
            # what stands above it is the end of a hint of Claude Code, of which the beginning has left the screen
            return lines[next(number for number, line in enumerate(lines) if "terms.pdf" in line) :]


def _create_project(folder: Path) -> Path:
    """Return the folder of the project, beside which are the home of the user and the installed program."""
    home, project, programs = (folder / name for name in ("home", "shop", "programs"))
    for path in (home, project, programs):
        path.mkdir()
    (programs / "anthropic-proxy").symlink_to(Path(sys.executable).with_name("anthropic-proxy"))
    introduce(home, project)
    return project


@contextmanager
def _code(project: Path, variables: str, tables: str, tool: str) -> Iterator[Tmux]:
    """Run `anthropic-proxy code` on a screen. `variables`, `tables`: lines of the two files with settings. `tool`: one
    that may be used without a question.
    """
    home = project.parent / "home"
    settings = home / ".config/anthropic-proxy"
    settings.mkdir(parents=True)
    (settings / ".env").write_text(variables)
    (settings / "anthropic-proxy.toml").write_text(tables)
    environment = _environment(home, free_port(), project.parent / "programs")
    environment |= {"ANTHROPIC_PROXY_CONFIG": str(settings), "TERM": "xterm-256color"}
    code = ("anthropic-proxy", "code", "--", "--allowedTools", tool)
    with running_in_tmux(code, project, environment) as screen:
        screen.wait_for("❯")
        yield screen


def write_picture() -> None:
    """Run the demo and write the picture of it, and the animation for the page about Claude Code."""
    SESSION.write_text(draw(record_claude_code(), "Terminal: Claude Code with an OpenAI model"), "utf-8")
    label = "Claude Code: a model of text answers what page 2 of a PDF says, and what a screenshot shows"
    TEXT_MODEL.write_text(draw(record_model_of_text(), label), "utf-8")
    for (name, label), lines in zip(BUDGET.items(), record_own_budget(), strict=True):
        (DOCS / f"pictures/{name}.svg").write_text(draw(lines, label), "utf-8")
    label = "Claude Code: anthropic-proxy use says what another model costs, and the status line shows it"
    USE.write_text(draw(record_use(), label), "utf-8")
    session = record()
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(draw(session, "Terminal"), "utf-8")
    launch = session.index(next(line for line in session if line.startswith("$ anthropic-proxy code")))
    log = next(number for number, line in enumerate(session[launch:], start=launch) if not line) + 1
    while not re.match(r"(\x1b\[2m)?\d\d:\d\d:\d\d", session[log]):
        log += 1
    delays = {0: 0.3, 1: 1.2, launch: 3.0, launch + 1: 4.6, log: 5.2}
    LAUNCH.write_text(draw(session, "Terminal: the proxy starts, then Claude Code uses it", delays), "utf-8")


def _split_log(log: list[str]) -> tuple[list[str], list[str]]:
    first = next(number for number, line in enumerate(log) if re.match(r"(\x1b\[2m)?\d\d:\d\d:\d\d", line))
    last = max(number for number, line in enumerate(log) if "POST /v1/messages" in line)
    return log[:first], log[last : last + 2]


def _environment(home: Path, port: int, programs: Path) -> dict[str, str]:
    nowhere = "http://127.0.0.1:9"
    return {
        "PATH": f"{programs}:{find_claude().parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "PYTHONPATH": str(DOCS.parent),
        "PORT": str(port),
        "COLUMNS": str(COLUMNS),
        "FORCE_COLOR": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "HTTPS_PROXY": nowhere,
        "NO_PROXY": "127.0.0.1,localhost",
        "TZ": "UTC",
    }


if __name__ == "__main__":
    write_picture()
