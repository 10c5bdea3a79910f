"""The command that starts this program in the shell of its user.

Texts name commands as `anthropic-proxy COMMAND`. This name alone starts nothing in a checkout, and in an environment
that only one shell has activated. `name_program` therefore replaces it in each text that a person reads on this
machine: output of commands, the log, pages and the replies of the demo. Error messages for clients keep the name,
because a client on another machine has no use for a path of this one.
"""

import filecmp
import os
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path

from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.errors import PACKAGE

_TEMPORARY = ("archive-v", "uvx", ".tmp")
"""Parts of the path of a Python interpreter that uvx or pipx run has created. Such an interpreter can be removed at any
time."""
_COMMAND = compile_later(rf"(?<![\w./\\-]){PACKAGE}(?= (?:[a-z]|--(?!config)))")
"""The name before a command or an option. It has no folder before it. A command with `--config` is complete."""
COMMANDS_USER_AGENT = PACKAGE
"""Header `user-agent` of requests of the commands to a proxy."""
_folders: list[str] = []


def add_folder_to_commands(folder: str) -> None:
    """Let texts of this process name commands with `--config`, so that they use `folder`."""
    _folders[:] = [folder]


def name_program(text: str) -> str:
    """Return `text` with what starts this program in place of its name before each command."""
    if PACKAGE not in text:
        return text
    words = " ".join((find_program_command(), *(f"--config {_quote(folder)}" for folder in _folders)))
    return _COMMAND.sub(lambda _: words, text)


@cache
def find_program_command() -> str:
    """Return the name of the program if PATH leads every shell of the user to it, else its path.

    A folder of PATH that belongs to the virtual environment does not count: `uv run` and an activation add it for one
    shell.
    """
    folder = Path(sys.executable).parent
    name = f"{PACKAGE}.exe" if sys.platform == "win32" else PACKAGE
    started = Path(os.path.abspath(sys.argv[0]))
    script = next((path for path in (started, folder / name) if path.name == name and path.is_file()), None)
    if script is None:
        return f"{_quote(sys.executable)} -m anthropic_proxy"
    found = shutil.which(PACKAGE)
    if found is not None and os.path.isabs(found) and _is_same(found, script):
        is_temporary = sys.prefix != sys.base_prefix and Path(found).parent == folder
        if not is_temporary:
            return PACKAGE
    return _quote(str(script))


def _is_same(path: str, script: Path) -> bool:
    if sys.platform == "win32":  # installers copy the program there, which contains the path of its interpreter
        return filecmp.cmp(path, script, shallow=False)
    return os.path.samefile(path, script)


def is_temporary_installation(python: str) -> bool:
    """Return True if uvx or pipx has created the environment of the interpreter `python` for one run."""
    return any(word in folder for folder in Path(python).parts for word in _TEMPORARY)


def shorten_home(path: str | Path) -> str:
    """Return `path` with `~` in place of the user's home directory, for people, not for a quoted command."""
    home, text = os.path.expanduser("~"), str(path)
    return f"~{text[len(home) :]}" if home != "/" and text.startswith(f"{home}{os.sep}") else text


def _quote(path: str) -> str:
    """Return `path` for a command line, with `~` for the home directory where a shell replaces it."""
    if sys.platform == "win32":
        return f'"{path}"' if " " in path else path
    home = os.path.expanduser("~")
    if home not in ("~", "/") and path.startswith(f"{home}/"):
        return f"~/{shlex.quote(path[len(home) + 1 :])}"
    return shlex.quote(path)
