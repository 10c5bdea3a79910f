"""What people install: metadata, locks, scripts, the wheel, the image. The slow ones install from the package index."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from datetime import date
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from anthropic_proxy.routing.providers import PROVIDERS, Provider
from tests.image import Image

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = tuple(sorted(path.name for path in ROOT.glob("requirements*.lock")))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())


def locked(name: str) -> dict[str, str]:
    """Package → version, of one lock file."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text("utf-8"), re.MULTILINE))


def test_groups_repeat_the_extras() -> None:
    extras, groups = PROJECT["project"]["optional-dependencies"], PROJECT["dependency-groups"]
    assert {name: groups[name] for name in ("tests", "vertex")} == {name: extras[name] for name in ("tests", "vertex")}


def test_an_installation_stays_small() -> None:
    assert len(PROJECT["project"]["dependencies"]) <= 12


@pytest.mark.parametrize("name", LOCKS)
def test_locks_pin_by_hash_and_name_no_host(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert "/" not in text
    assert "#" not in text
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[a-z0-9-]+==[\w.+!]+( ; [^\n\\]+)? \\\n( +--hash=sha256:[0-9a-f]{64}( \\\n)?)+$", entry), (
            entry
        )


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [
        ("requirements.lock", PROJECT["project"]["dependencies"]),
        ("requirements-build.lock", PROJECT["dependency-groups"]["build"]),
        ("requirements-dev.lock", PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["build"]),
        ("requirements-audit.lock", PROJECT["dependency-groups"]["audit"]),
        ("requirements-fuzz.lock", PROJECT["dependency-groups"]["fuzz"]),
        ("requirements-engine.lock", PROJECT["dependency-groups"]["engine"]),
        ("requirements-dev.lock", [line for line in PROJECT["dependency-groups"]["dev"] if isinstance(line, str)]),
        ("requirements-dev.lock", PROJECT["dependency-groups"]["tests"]),
    ],
)
def test_locks_hold_what_the_project_asks_for(lock: str, requirements: list[str]) -> None:
    versions = locked(lock)
    for requirement in map(Requirement, requirements):
        assert requirement.specifier.contains(versions[requirement.name]), f"run scripts/lock: {requirement}"


def test_locks_agree_with_each_other() -> None:
    everything = locked("requirements-dev.lock")
    for name in sorted({*LOCKS} - {"requirements-differential.lock"}):  # that one is for another LiteLLM
        assert {
            package: version for package, version in locked(name).items() if package in everything
        }.items() <= everything.items()
    for name in ("requirements.lock", "requirements-build.lock"):
        assert locked(name).keys() <= everything.keys()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_short_and_run_anywhere(script: Path) -> None:
    text = script.read_text("utf-8")
    assert text.count("\n") <= 25
    assert text.splitlines()[1].startswith("# ")
    assert script.stat().st_mode & stat.S_IXUSR
    if text.startswith("#!/bin/sh"):
        subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.parametrize("shim", ["server.py", "app/main.py"])
def test_shims_hold_no_logic(shim: str) -> None:
    lines = [line for line in (ROOT / shim).read_text("utf-8").splitlines() if line]
    assert len(lines) == 3
    assert lines[1:] == ["from anthropic_proxy.app import app_from_environment", "app = app_from_environment()"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_no_committed_file_names_a_machine_or_a_registry() -> None:
    """What is committed must install from any index and run in any folder."""
    foreign = re.compile(
        "/(?:work|root)/|" + "|".join(f"{name}[.]" for name in ("py" + "pi", "python" + "hosted", "npm" + "js"))
    )
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found = [
        f"{name}: {match[0]}"
        for name in names.split("\0")
        if name and (ROOT / name).is_file()
        for match in foreign.finditer((ROOT / name).read_text("utf-8", errors="replace"))
    ]
    assert not found


def test_the_readme_begins_with_two_whole_commands() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks[:2] == ["sh scripts/serve\n", "sh scripts/test\n"]


def anchors(text: str) -> set[str]:
    """The addresses of a page's headings, as code hosts make them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_of_the_documentation_lead_somewhere(page: Path) -> None:
    for address in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text("utf-8")):
        name, _, anchor = address.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), address
        assert not anchor or anchor in anchors(target.read_text("utf-8")), address


def test_the_architecture_has_every_module_of_the_rooms() -> None:
    tree = (ROOT / "docs/architecture.md").read_text("utf-8").partition("## The tree")[2].partition("\n## ")[0]
    named = set(re.findall(r"\w+", tree))
    package = ROOT / "anthropic_proxy"
    for room in ("server", "exchange", "routing", "messages", "wire", "upstream", "metrics"):
        modules = {path.stem for path in (package / room).glob("*.py")} - {"__init__"}
        folders = {path.parent.name for path in (package / room).glob("*/__init__.py")}
        assert modules | folders <= named, room
    assert set(re.findall(r"^(\w+)/", tree, re.MULTILINE)) < {path.name for path in package.iterdir()}


@pytest.mark.parametrize("row", [row for row in PROVIDERS if row.retired_models], ids=lambda row: row.name)
def test_the_readme_names_no_default_that_is_gone(row: Provider) -> None:
    """Who follows it gets models that answer."""
    lines = [line for line in (ROOT / "README.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    for model in (row.big_model, row.small_model):
        retired = row.retired_models.get(model or "")
        if retired is not None and date.fromisoformat(retired.since) <= date(2026, 11, 20):
            assert any(f"={row.prefix}/{retired.successor}`" in line for line in lines), model


def test_the_wheel_holds_the_package_alone(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    held = {name for name in names if ".dist-info/" not in name}
    here = {path.relative_to(ROOT) for path in (ROOT / "anthropic_proxy").rglob("*") if path.is_file()}
    assert held == {path.as_posix() for path in here if "__pycache__" not in path.parts}
    assert "anthropic_proxy/routing/models.toml" in held
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith(".pth") or ".data/" in name], "runs without being imported"


IMAGE = Image((ROOT / "Dockerfile").read_text("utf-8"))


def test_the_image_runs_without_root_and_watches_its_health() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", IMAGE.last("USER"))
    assert IMAGE.last("HEALTHCHECK").endswith('CMD ["anthropic-proxy", "health"]')
    assert json.loads(IMAGE.last("CMD")) == ["anthropic-proxy", "serve", "--host", "0.0.0.0"]
    assert IMAGE.environment()["ALLOW_UNAUTHENTICATED"] == "true"


def test_the_image_is_built_from_the_lock_alone() -> None:
    installs = [command for run in IMAGE.all("RUN") for command in run.split("&&") if " install " in command]
    assert installs
    assert all("--require-hashes" in command or "--no-index" in command for command in installs)
    assert all(re.fullmatch(r"[a-z]+:\d[\w.]*-\w+( AS \w+)?", base) for base in IMAGE.all("FROM"))
    assert not IMAGE.all("ADD")


def test_the_image_takes_no_secret_with_it() -> None:
    assert not IMAGE.all("ARG")
    assert not [name for name in IMAGE.environment() if re.search("KEY|TOKEN|SECRET|PASSWORD", name)]
    rules = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert rules[0] == "*"
    wanted = {source for copy in IMAGE.all("COPY") if "--from" not in copy for source in copy.split()[:-1]}
    assert {rule[1:] for rule in rules if rule.startswith("!")} == wanted
    assert not [source for source in wanted if source.startswith(".")]


def test_the_compose_file_publishes_on_loopback_and_gives_nothing_away() -> None:
    proxy = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]["proxy"]
    assert [port.split(":")[0] for port in proxy["ports"]] == ["127.0.0.1"]
    assert proxy["ports"][0].endswith(":" + proxy["environment"]["PORT"])
    assert proxy["read_only"] is True
    assert proxy["cap_drop"] == ["ALL"]
    assert proxy["security_opt"] == ["no-new-privileges:true"]
    assert proxy["env_file"] == [{"path": ".env", "required": False}]
    assert not {"privileged", "network_mode", "user", "volumes"} & set(proxy)


@pytest.mark.slow
def test_the_steps_of_the_image_serve(tmp_path: Path) -> None:
    IMAGE.build(ROOT, tmp_path)
    startup = [path.name for path in tmp_path.rglob("site-packages/*.pth") if "proxy" in path.parts]
    assert startup == [], "no package may run code whenever Python starts: that is how keys were stolen in 2026"
    with IMAGE.run(tmp_path) as container:
        container.wait_until_healthy(seconds=30)
        reply = container.post(
            "/v1/messages",
            {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]},
        )
        assert reply["type"] == "message"
        assert reply["content"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["pip install .[tests]", "uv sync --group tests"])
def test_historic_installations_work(tmp_path: Path, how: str) -> None:
    """In a copy of the checkout, with nothing but an empty virtual environment."""
    copy, tools = tmp_path / "copy", tmp_path / "tools"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "node_modules", "__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", tools], check=True)
    environ = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    if how.startswith("uv"):
        subprocess.run([tools / "bin/python", "-m", "pip", "install", "-q", "uv"], check=True)
        subprocess.run(
            [tools / "bin/uv", *how.split()[1:], "-q", "--python", sys.executable], cwd=copy, env=environ, check=True
        )
        tools = copy / ".venv"
    else:
        subprocess.run([tools / "bin/python", "-m", *how.split(), "-q"], cwd=copy, env=environ, check=True)
    subprocess.run(
        [tools / "bin/python", "-c", "import anthropic, hypothesis, pytest, anthropic_proxy"], cwd=tmp_path, check=True
    )
    assert (
        b"serve"
        in subprocess.run(
            [tools / "bin/anthropic-proxy", "--help"], cwd=tmp_path, check=True, capture_output=True
        ).stdout
    )
