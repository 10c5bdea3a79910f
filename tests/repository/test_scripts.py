"""Scripts with programs in place of those that they run, which print their arguments."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.platform_marks import needs_process_limits

ENVIRONMENTS = """import sys
PYTHON = sys.executable
def set_up(*words): pass
"""


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (("--config", "."), ("--config", "{here}")),
        (("--config=own/", "--port", "."), ("--config={here}/own", "--port", ".")),
        (("--port", "1", "--config", "../x"), ("--port", "1", "--config", "{above}/x")),
        (("--config", "~/own", "--config=~/own"), ("--config", "{home}/own", "--config={home}/own")),
        (("--config",), ("--config",)),
        (("--config=",), ("--config=",)),
        (("--config", "/etc/proxy"), ("--config", "/etc/proxy")),
    ],
)
def test_serve_passes_the_folder_of_the_current_directory(
    given: tuple[str, ...], passed: tuple[str, ...], tmp_path: Path
) -> None:
    here = tmp_path / "here"
    for folder in (here, tmp_path / "scripts"):
        folder.mkdir()
    shutil.copy(ROOT / "scripts/serve.py", tmp_path / "scripts")
    (tmp_path / "scripts/environments.py").write_text(
        f"import os\n{ENVIRONMENTS}def become(*words): print(*words[4:])\nos.chdir({str(tmp_path)!r})\n"
    )
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "scripts/serve.py"), *given],
        check=True,
        cwd=here,
        env={**os.environ, "HOME": "/home/ada", "USERPROFILE": "/home/ada"},
        capture_output=True,
        text=True,
    )
    expected = [word.format(here=here, above=tmp_path, home="/home/ada") for word in passed]
    assert ended.stdout.split() == expected


@pytest.mark.parametrize(
    ("command", "listed"),
    [
        (("-m", "tests.attacks", "pipelined", "no such row"), "  client: HTTP/1.0 with Upgrade and chunks\n"),
        (("-m", "tests.faults", "retry-after", "no such row"), "  status: 429, `retry-after: 61`\n"),
        pytest.param(
            ("-m", "tests.growth", "unknown blocks", "no such row"),
            "  unknown blocks / server\n",
            marks=needs_process_limits,
        ),
        pytest.param(
            ("-m", "tests.fleet", "no such row"),
            " outages, limits, bills, upgrade, people, company\n",
            marks=needs_process_limits,
        ),
        (("scripts/ci.py", "nightly", "growth", "no such row"), "python3 scripts/ci.py growth, "),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_a_word_that_selects_nothing_is_an_error_with_the_names_to_select(
    command: tuple[str, ...], listed: str
) -> None:
    done = subprocess.run([sys.executable, *command], check=False, cwd=ROOT, capture_output=True, text=True)
    first = done.stderr.partition("\n")[0]
    assert (done.returncode, done.stdout, "no such row" in first, listed in done.stderr) == (1, "", True, True)


def test_the_set_up_counts_the_packages_that_are_missing(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/runtime.lock").write_text("jinja2==3.1.6 \\\n    --hash=sha256:00\nmarkupsafe==3.0.2\n")
    (tmp_path / "locks/build.lock").write_text("editables==0.5\n")
    (tmp_path / ".venv/lib/python3.11/site-packages/MarkupSafe-3.0.2.dist-info").mkdir(parents=True)
    with (tmp_path / "scripts/environments.py").open("a") as environments:
        environments.write("def create(*words): pass\ndef _compile(): pass\n")
        environments.write("def _pip_for(environment): return [sys.executable, '-c', '0']\n")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "scripts/setup.py")], check=True, capture_output=True, text=True
    )
    assert done.stderr == "Installing up to 2 packages into .venv, which takes a minute or two ...\n"


def test_a_set_up_without_a_network_says_what_to_check(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "locks").mkdir()
    for name in ("runtime", "build"):
        (tmp_path / f"locks/{name}.lock").write_text("jinja2==3.1.6\n")
    with (tmp_path / "scripts/environments.py").open("a") as environments:
        environments.write(
            "def create(*words): pass\ndef _pip_for(environment): return [sys.executable, '-c', '1/0']\n"
        )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "scripts/serve.py")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.endswith(
        "The packages could not be installed: see above. Without a network, or behind a proxy, set HTTPS_PROXY, or an "
        "index of\nyour network in the configuration of pip, and run this again. More: docs/guide/troubleshooting.md\n"
    )


def test_pictures_are_drawn_of_the_demo_a_company_and_single_commands(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    with (tmp_path / "scripts/environments.py").open("a") as environments:
        environments.write(
            "def set_up(*words): pass\n"
            "def run(*words): print(*words[1:])\n"
            "def become(*words): sys.exit(print(*words[1:]))\n"
        )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "scripts/ci.py"), "pictures"], check=True, capture_output=True, text=True
    )
    assert done.stdout == "-m tests.site.picture\n-m tests.site.company_pictures\n-m tests.site.recordings\n"
