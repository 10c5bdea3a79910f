"""The conformance suite as users install it: by itself, and in the wheel of the proxy; in empty environments."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from tests.packages.test_packages import built, new_environment, run, tools
from tests.support.paths import ROOT
from tests.support.server_process import hold_port

__all__ = ["built", "tools"]
FOLDER = ROOT / "conformance"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the built wheel of the suite."""
    folder = tmp_path_factory.mktemp("suite")
    for target in ("wheel", "sdist"):
        command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder]
        subprocess.run(command, cwd=FOLDER, check=True)
    assert len(list(folder.glob("*.tar.gz"))) == 1
    return next(folder.glob("*.whl"))


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    """Yield the ports of the proxy and of the scripted upstream."""
    with hold_port() as port, hold_port() as upstream:
        yield port, upstream


def test_the_wheel_holds_the_suite_alone(suite: Path) -> None:
    names = zipfile.ZipFile(suite).namelist()
    here = {path.relative_to(FOLDER) for path in (FOLDER / "messages_conformance").rglob("*") if path.is_file()}
    expected = {path.as_posix() for path in here if "__pycache__" not in path.parts}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.parametrize("package", ["suite", "proxy"])
def test_a_run_from_an_empty_environment(
    package: str, suite: Path, built: dict[str, Path], tools: Path, tmp_path: Path, ports: tuple[int, int]
) -> None:
    """The proxy of this checkout is behind it, between the scripted upstream and the suite."""
    python = new_environment(tools, tmp_path)
    wheel = suite if package == "suite" else built["wheel"]
    run(tools / "uv", "pip", "install", "-q", "--python", python, wheel, directory=tmp_path)
    programs = {"suite": ("messages-conformance",), "proxy": ("anthropic-proxy", "conformance")}
    name, *words = programs[package]
    port, upstream = ports
    report = tmp_path / "junit.xml"
    done = run(
        python.parent / name,
        *words,
        f"http://127.0.0.1:{port}",
        *("--model", "openai/gpt-4.1", "--backend", "openai", "--backend-address", f"127.0.0.1:{upstream}"),
        *("--start", f"{sys.executable} -m anthropic_proxy serve --port {port}"),
        *("--check", "message.*", "--check", "stream.*", "--junit", str(report)),
        directory=tmp_path,
        OPENAI_BASE_URL=f"http://127.0.0.1:{upstream}/v1",
        OPENAI_API_KEY="sk-any",
    )
    assert re.search(r"\nall +\d+ ", done)
    suites = list(ET.parse(report).getroot())
    assert [(found.get("name"), found.get("failures"), found.get("errors")) for found in suites] == [
        ("message", "0", "0"),
        ("stream", "0", "0"),
    ]
    if package == "suite":
        run(tools / "uv", "pip", "install", "-q", "--python", python, "pytest", directory=tmp_path)
        listed = run(
            python,
            *("-m", "pytest", "-q", "--collect-only", "--messages-url", "http://127.0.0.1:9", "--messages-model", "m"),
            *("--messages-check", "message.type"),
            directory=tmp_path,
        )
        assert listed.startswith("messages::message.type\n")


def test_the_action_runs_the_suite(tmp_path: Path, ports: tuple[int, int]) -> None:
    """Its last step, as a runner of GitHub executes it."""
    step = yaml.safe_load((FOLDER / "action.yml").read_text("utf-8"))["runs"]["steps"][-1]
    assert step["shell"] == "bash"
    port, upstream = ports
    report = tmp_path / "junit.xml"
    options = (
        f"--backend openai --backend-address 127.0.0.1:{upstream} --check message.* --junit {report}"
        f' --start "{sys.executable} -m anthropic_proxy serve --port {port}"'
    )
    shutil.copytree(FOLDER, tmp_path / "action", ignore=shutil.ignore_patterns("__pycache__"))
    run(
        *("/usr/bin/env", "bash", "-eo", "pipefail", "-c", step["run"]),
        directory=tmp_path,
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        RUNNER_TEMP=str(tmp_path),
        GITHUB_ACTION_PATH=str(tmp_path / "action"),
        URL=f"http://127.0.0.1:{port}",
        MODEL="openai/gpt-4.1",
        OPTIONS=options,
        OPENAI_BASE_URL=f"http://127.0.0.1:{upstream}/v1",
        OPENAI_API_KEY="sk-any",
    )
    assert [suite.get("name") for suite in ET.parse(report).getroot()] == ["message"]
