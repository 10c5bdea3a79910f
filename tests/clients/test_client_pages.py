"""The pages of docs/start about programs of others: each is followed literally, with the real program and the demo.

A line of a page, or of a section of the page Frameworks, names the tested packages with their versions, which are
installed into the user's cache. The blocks with the word `client` are then used: JSON is written to the file that the
text before names, Python is `program.py`, TypeScript is `program.mjs`, and `sh` is run. Programs that no `sh` block
starts are run as they are.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.npm import cache, install
from tests.site.client_pages import FRAMEWORKS, PAGES, packages_of, texts
from tests.site.pages import blocks
from tests.support.server_process import Proxy, environment_of, reserve_closed_port, running_proxy

TIMEOUT_SECONDS = 300
_NOBODY = {"OLLAMA_API_BASE": "http://127.0.0.1:9"}
_CODE = re.compile(r"`([^`\n]+)`")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("proxy"), _NOBODY) as running:
        yield running


def install_python(packages: Mapping[str, str]) -> Path:
    """Return the folder with the programs of an environment that has these packages, and what a user gets with them."""
    wanted = [f"{name}=={version}" for name, version in packages.items()]
    digest = hashlib.sha256(" ".join((sys.version, *wanted)).encode()).hexdigest()[:12]
    place = cache().with_name("clients") / digest
    if not (place / "complete").exists():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        pip = (place / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check")
        done = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (place / "complete").touch()
    return place / "bin"


def install_node(packages: Mapping[str, str]) -> Path:
    """Return `node_modules` with these packages."""
    (first, version), *others = packages.items()
    return install(first, version, *(f"{name}@{number}" for name, number in others))


def use(page: str, url: str, folder: Path) -> str:
    """Follow a page or section in a folder, which is also the user's home. Return what the programs print."""
    text = texts()[page]
    packages = packages_of(text)
    assert packages is not None
    environment = {**environment_of(folder), "HOME": str(folder), "NO_COLOR": "1", **_NOBODY}
    # `run` starts a proxy of its own; the Agent SDK starts Claude Code
    environment |= {"PORT": reserve_closed_port(), "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    programs = [install_python(packages.python)] if packages.python else []
    if packages.npm:
        modules = install_node(packages.npm)
        # no script of a package is run: that of opencode links the program of its package for this platform
        programs += [*sorted(modules.glob("opencode-*-*/bin"))[:1], modules / ".bin"]
        (folder / "node_modules").symlink_to(modules)
    environment["PATH"] = os.pathsep.join((*map(str, programs), environment["PATH"], sysconfig.get_path("scripts")))
    used = [block for block in blocks(text) if "client" in block.words]
    starts = [block for block in used if block.language == "sh"]
    commands = [["sh", "-euc", block.text.replace("http://127.0.0.1:8082", url)] for block in starts]
    for block in used:
        content = block.text.replace("http://127.0.0.1:8082", url)
        match block.language:
            case "json":
                before = "\n".join(text.splitlines()[: block.line - 1])
                file = folder / _CODE.findall(before)[-1].removeprefix("~/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(content)
            case "python":
                (folder / "program.py").write_text(content)
                if not starts:
                    commands.append(["python", "program.py"])
            case "ts":
                (folder / "program.mjs").write_text(content)
                if not starts:
                    commands.append(["node", "program.mjs"])
    assert commands
    printed = ""
    for command in commands:
        program = shutil.which(command[0], path=environment["PATH"]) or command[0]
        done = subprocess.run(
            [program, *command[1:]],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        printed += done.stdout
    return printed


PRINTED = {
    "agent-sdk": ("ResultMessage(subtype='success'", "\n  subtype: 'success',", "\n  type: 'result',"),
    "Instructor": ("name='demo' country='demo'",),
    "Inspect": ("1.000",),
}


@pytest.mark.parametrize("page", [*PAGES, *FRAMEWORKS])
def test_a_page_works_with_the_real_client(page: str, proxy: Proxy, tmp_path: Path) -> None:
    printed = use(page, proxy.url, tmp_path)
    expected = PRINTED.get(page, ("This is the built-in demonstration of anthropic-proxy.",))
    assert [text for text in expected if text not in printed] == [], printed
