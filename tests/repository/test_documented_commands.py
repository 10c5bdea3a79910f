"""The blocks of README and docs/ work as described: commands run, Python programs run, settings are valid.

A word after the language excludes a block; docs/contributing/testing.md lists the words.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anthropic_proxy.console.ledger.records import GROUP_NAMES
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import list_variables, load_settings
from tests.site.client_pages import FRAMEWORKS, PAGES, packages_of, texts
from tests.site.installation import PROGRAM, SERVE, SERVE_CHECKOUT, TEST
from tests.site.pages import Block, all_pages, blocks
from tests.support.paths import ROOT
from tests.support.server_process import Proxy, ending, environment_of, hold_port, running_proxy
from tests.support.waiting import WAIT_SECONDS, reporting_log, wait_for

EXCLUDING_WORDS = {"key", "client", "extra", "long", "module"}
RUN_ELSEWHERE = (SERVE, SERVE_CHECKOUT, TEST)
"""Blocks with a test of their own, and the command that runs this test."""
NO_SETTINGS_OF_THE_PROXY = ("MISTRAL_API_KEY", "CLAUDE_CODE_")
_ASSIGNMENTS = re.compile(r"(?:[A-Z][A-Z0-9_]*=\S*\n)+")
_NOBODY = {"OLLAMA_API_BASE": "http://127.0.0.1:9"}


def test_the_guide_names_each_grouping_of_the_sums() -> None:
    (table,) = re.findall(
        r"^### Groups\n\n((?:\|.+\n)+)", (ROOT / "docs/guide/commands.md").read_text("utf-8"), re.MULTILINE
    )
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == sorted(GROUP_NAMES)


def test_each_page_of_a_client_names_its_packages_or_says_that_it_was_not_run() -> None:
    tested = {name: packages_of(text) for name, text in texts().items()}
    assert {name for name, packages in tested.items() if packages and any(packages)} == {*PAGES, *FRAMEWORKS}
    assert {name for name, text in texts().items() if "not run" in text} == {"claude-desktop", "vscode"}


def all_blocks() -> list[tuple[str, Block]]:
    found = [(page, block) for page in all_pages() for block in blocks(page.read_text("utf-8"))]
    return [(f"{page.relative_to(ROOT).as_posix()}:{block.line}", block) for page, block in found]


def run_blocks() -> list[object]:
    programs = {"sh": ["sh", "-euc"], "python": [sys.executable, "-c"]}
    return [
        pytest.param(programs[block.language], block.text, id=place)
        for place, block in all_blocks()
        if block.language in programs and not block.words and block.text.strip() not in RUN_ELSEWHERE
    ]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the commands of a checkout. Its packages are those of the test environment."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/serve.py", folder / "scripts/serve.py")
    (folder / "scripts/environments.py").write_text(
        f"import os\n\nPYTHON = {sys.executable!r}\nset_up = list\n\n\n"
        "def become(*command):\n    os.execv(command[0], command)\n"
    )
    program = folder / PROGRAM
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m anthropic_proxy "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("proxy"), _NOBODY) as running:
        yield running


def environment(clone: Path, port: int) -> dict[str, str]:
    own = {**environment_of(clone), "PORT": str(port)}
    own["PATH"] = os.pathsep.join((str((clone / PROGRAM).parent), own["PATH"]))
    return {**own, **_NOBODY, "NO_COLOR": "1"}


def run(words: list[str], clone: Path, port: int) -> None:
    done = subprocess.run(
        words,
        cwd=clone,
        env=environment(clone, port),
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_blocks_are_excluded_by_known_words_only() -> None:
    code = [(place, block) for place, block in all_blocks() if block.language in ("sh", "python", "bash", "shell")]
    assert [place for place, block in code if block.language not in ("sh", "python")] == []
    assert [place for place, block in code if not set(block.words) <= EXCLUDING_WORDS] == []


@pytest.mark.parametrize(("program", "text"), run_blocks())
def test_blocks_run(program: list[str], text: str, clone: Path, proxy: Proxy) -> None:
    port = int(proxy.url.rpartition(":")[2])
    run([*program, text.replace("127.0.0.1:8082", f"127.0.0.1:{port}")], clone, port)


@pytest.mark.parametrize("command", [SERVE, SERVE_CHECKOUT])
def test_a_documented_command_serves(command: str, clone: Path) -> None:
    with hold_port() as port:
        own = environment(clone, port)
        log_file = clone / "server.log"
        with log_file.open("wb") as log:
            server = subprocess.Popen(["sh", "-euc", f"exec {command}"], cwd=clone, env=own, stderr=log)
        with reporting_log(server, log_file), ending(server):
            health = [str(clone / PROGRAM), "health"]

            def check() -> "subprocess.CompletedProcess[str]":
                assert server.poll() is None
                return subprocess.run(health, env=own, capture_output=True, text=True, check=False)

            wait_for(check, lambda done: done.returncode == 0)
        assert server.returncode == 0


def settings_blocks() -> list[object]:
    found = [(place, block) for place, block in all_blocks() if not block.language]
    return [pytest.param(block.text, id=place) for place, block in found if _ASSIGNMENTS.fullmatch(block.text)]


@pytest.mark.parametrize("text", settings_blocks())
def test_settings_are_valid(text: str) -> None:
    """Each block of assignments can be copied into `.env` without a warning."""
    names = {line.partition("=")[0] for line in text.splitlines()}
    assert {
        name for name in names - set(list_variables(PROVIDERS)) if not name.startswith(NO_SETTINGS_OF_THE_PROXY)
    } == set()
    values = dict(line.split("=", 1) for line in re.sub(r"your-[\w-]+", "sk-0123456789", text).splitlines())
    assert load_settings(values, PROVIDERS).warnings == ()
