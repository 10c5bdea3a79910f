"""Checks of `.github/` without a network: structure, pinned actions, permissions, shell syntax, referenced files."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import pytest
import yaml
from msgspec import Struct, field

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
T = TypeVar("T")
Access = Literal["read", "write", "none"]


class Model(Struct, forbid_unknown_fields=True, rename="kebab"):
    """A mapping that allows only known keys."""


class Step(Model):
    name: str = ""
    uses: str = ""
    run: str = ""
    with_: dict[str, str] = field(name="with", default_factory=dict)
    env: dict[str, str] = {}


class Strategy(Model):
    matrix: dict[str, list[str]]
    fail_fast: Literal["true", "false"] = "true"


class Job(Model):
    runs_on: str
    timeout_minutes: int
    steps: list[Step]
    name: str = ""
    needs: list[str] = []
    environment: str = ""
    strategy: Strategy | None = None
    permissions: dict[str, Access] = {}


class Concurrency(Model):
    group: str
    cancel_in_progress: Literal["true", "false"]


class Workflow(Model):
    name: str
    on: dict[Literal["push", "pull_request", "schedule", "workflow_dispatch"], Any]
    permissions: dict[str, Access]
    concurrency: Concurrency
    jobs: dict[str, Job]


class Attributes(Model):
    label: str = ""
    value: str = ""
    description: str = ""
    placeholder: str = ""
    render: str = ""
    options: list[str] = []


class Question(Model):
    type: Literal["markdown", "input", "textarea", "dropdown"]
    attributes: Attributes
    id: str = ""
    validations: dict[Literal["required"], Literal["true", "false"]] = {}


class Form(Model):
    name: str
    description: str
    body: list[Question]
    labels: list[str] = []


class UniqueKeys(yaml.BaseLoader):
    """Loads scalars as text, so that `on` stays a key, and rejects a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        pairs = self.construct_pairs(node, deep=deep)
        assert len(dict(pairs)) == len(pairs), f"repeated key: {node.start_mark}"
        return dict(pairs)


def load(path: Path, model: type[T]) -> T:
    return msgspec.convert(yaml.load(path.read_text("utf-8"), UniqueKeys), model, strict=False)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_are_valid_and_minimal_in_rights(path: Path) -> None:
    workflow = load(path, Workflow)
    assert workflow.permissions == {"contents": "read"}
    for name, job in workflow.jobs.items():
        assert re.fullmatch(r"[a-z-]+", name)
        assert set(job.needs) <= workflow.jobs.keys() - {name}
        assert job.runs_on in {"ubuntu-latest", "${{ matrix.os }}"}
        assert 0 < job.timeout_minutes <= 120
        for step in job.steps:
            assert bool(step.uses) != bool(step.run), step
            check_action(step) if step.uses else check_command(step)
    assert "secrets." not in path.read_text("utf-8")


def check_action(step: Step) -> None:
    assert re.fullmatch(r"(actions/[a-z-]+@v\d+|[\w-]+/[\w-]+@v\d+\.\d+\.\d+)", step.uses), step.uses
    if step.uses.startswith("actions/checkout@"):
        assert step.with_["persist-credentials"] == "false"


def check_command(step: Step) -> None:
    """Values of the event reach a command as variables only: text of a stranger must not become shell code."""
    assert "${{" not in step.run
    subprocess.run(["bash", "-n"], input=step.run, text=True, check=True)
    for name in re.findall(r"(?:scripts|locks|\.ci)/[\w/.-]+", step.run):
        assert (ROOT / name).is_file(), name


def test_the_matrix_has_each_system_and_each_supported_python() -> None:
    strategy = load(ROOT / ".github/workflows/tests.yml", Workflow).jobs["tests"].strategy
    assert strategy.matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    prefix = "Programming Language :: Python :: 3."
    listed = [line.removeprefix(prefix) for line in PROJECT["classifiers"] if line.startswith(prefix)]
    assert strategy.matrix["python"] == [f"3.{minor}" for minor in listed]
    assert PROJECT["requires-python"] == f">={strategy.matrix['python'][0]}"


def test_only_a_release_may_publish_and_only_what_was_tested() -> None:
    rights = {(path.stem, name): job for path in WORKFLOWS for name, job in load(path, Workflow).jobs.items()}
    assert [key for key, job in rights.items() if job.permissions] == [("release", "publish")]
    publish = rights["release", "publish"]
    assert (publish.permissions, publish.needs, publish.environment) == ({"id-token": "write"}, ["build"], "release")
    assert not [step for step in publish.steps if step.run]
    run = {step.run for step in rights["release", "build"].steps}
    assert {"python3 scripts/check.py --static", "python3 scripts/test.py"} <= run


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_valid(path: Path) -> None:
    form = load(path, Form)
    asked = [question for question in form.body if question.type != "markdown"]
    assert len({question.id for question in asked}) == len(asked)
    for question in form.body:
        attributes = question.attributes
        assert bool(attributes.value) == (question.type == "markdown") != bool(attributes.label)
        assert bool(attributes.options) == (question.type == "dropdown")
        assert question.type == "markdown" or re.fullmatch(r"[a-z]+", question.id)
        for page in re.findall(r"`([\w/-]+\.md)`", attributes.value):
            assert (ROOT / page).is_file(), page
