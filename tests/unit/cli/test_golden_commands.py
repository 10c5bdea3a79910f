"""Every folder `tests/golden_commands/<command>/<case>/` is one case: commands, their output and the files they write.

`case.toml` has a `title`, the `commands` as lists of words, and if needed `settings` and `stdin`. A command may be a
table with `words` and its own `settings` and `stdin`. The other files of the folder are in the directory of the
commands, `env` as `.env`. `expected.txt` is what a terminal would show, and the new or changed files.
"""

import shlex
import shutil
import tomllib
from pathlib import Path

import pytest

from tests.support.command_line import run_command
from tests.support.paths import TESTS
from tests.support.recorded_texts import mask
from tests.support.server_process import reserve_closed_port

FOLDER = TESTS / "golden_commands"
CASES = sorted(path.parent for path in FOLDER.glob("*/*/case.toml"))
OWN_FILES = ("case.toml", "expected.txt")


def read_files(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file() and ".local" not in path.parts)
    return {str(path.relative_to(directory)): path.read_text("utf-8", "replace") for path in files}


def play(case: Path, directory: Path) -> str:
    fields = tomllib.loads((case / "case.toml").read_text("utf-8"))
    for file in case.iterdir():
        if file.name not in OWN_FILES:
            shutil.copy(file, directory / (".env" if file.name == "env" else file.name))
    before, shown = read_files(directory), ""
    for command in fields["commands"]:
        own = command if isinstance(command, dict) else {"words": command}
        settings = fields.get("settings", {}) | own.get("settings", {})
        stdin = own.get("stdin", fields.get("stdin", ""))
        done = run_command(*own["words"], directory=directory, settings=settings, stdin=stdin)
        given = "".join(f"{name}={shlex.quote(value)} " for name, value in own.get("settings", {}).items())
        shown += f"$ {given}anthropic-proxy {shlex.join(own['words'])}\n{done.stdout}"
        shown += f"[standard error]\n{done.stderr}" if done.stderr else ""
        shown += f"[exit status {done.returncode}]\n" if done.returncode else ""
    written = {name: text for name, text in read_files(directory).items() if before.get(name) != text}
    shown += "".join(f"\n[file {name}]\n{text}" for name, text in written.items())
    return mask(shown, HOME=str(directory), PORT=reserve_closed_port())


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.relative_to(FOLDER)))
def test_commands_print_and_write_what_is_recorded(case: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    shown, file = play(case, tmp_path), case / "expected.txt"
    if request.config.getoption("--update-golden"):
        file.write_text(shown, "utf-8")
    assert shown == file.read_text("utf-8")
