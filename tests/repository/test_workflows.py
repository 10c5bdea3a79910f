"""Checks of `.github/workflows/` without a network: pinned actions, permissions, shell syntax, referenced files."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


class UniqueKeys(yaml.BaseLoader):
    """Loads scalars as text, so that `on` stays a key, and rejects a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        pairs = self.construct_pairs(node, deep=deep)
        assert len(dict(pairs)) == len(pairs), f"repeated key: {node.start_mark}"
        return dict(pairs)


def load(path: Path) -> Any:
    return yaml.load(path.read_text("utf-8"), UniqueKeys)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_are_minimal_in_rights(path: Path) -> None:
    workflow = load(path)
    assert workflow["on"].keys() <= {"push", "pull_request", "schedule", "workflow_dispatch"}
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert set(job.get("needs", [])) <= workflow["jobs"].keys() - {name}
        assert job["runs-on"] in {"ubuntu-latest", "${{ matrix.os }}"}
        assert 0 < int(job["timeout-minutes"]) <= 120
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            check_action(step) if "uses" in step else check_command(step["run"])
    assert "secrets." not in path.read_text("utf-8")


def check_action(step: dict[str, Any]) -> None:
    action = step["uses"]
    assert re.fullmatch(r"(actions/[a-z-]+@v\d+|[\w-]+/[\w-]+@v\d+\.\d+\.\d+)", action), action
    if action.startswith("actions/checkout@"):
        assert step["with"]["persist-credentials"] == "false"


def check_command(command: str) -> None:
    """Values of the event reach a command as variables only: text of a stranger must not become shell code."""
    assert "${{" not in command
    subprocess.run(["bash", "-n"], input=command, text=True, check=True)
    for name in re.findall(r"(?:scripts|locks|\.ci)/[\w/.-]+", command):
        assert (ROOT / name).is_file(), name


def test_the_matrix_has_each_system_and_each_supported_python() -> None:
    matrix = load(ROOT / ".github/workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    prefix = "Programming Language :: Python :: 3."
    listed = [line.removeprefix(prefix) for line in PROJECT["classifiers"] if line.startswith(prefix)]
    assert matrix["python"] == [f"3.{minor}" for minor in listed]
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"


def test_only_a_release_may_publish_and_only_what_was_tested() -> None:
    jobs = {(path.stem, name): job for path in WORKFLOWS for name, job in load(path)["jobs"].items()}
    assert [key for key, job in jobs.items() if job.get("permissions")] == [("release", "publish")]
    publish = jobs["release", "publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert (publish["needs"], publish["environment"]) == (["build"], "release")
    assert not [step for step in publish["steps"] if "run" in step]
    run = {step.get("run") for step in jobs["release", "build"]["steps"]}
    assert {"python3 scripts/check.py --static", "python3 scripts/test.py"} <= run
