"""Tests of the installed files: metadata, locks, scripts, the wheel, the image. The slow ones use the package index."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from datetime import date
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from anthropic_proxy.engine.providers import PROVIDERS, Provider
from anthropic_proxy.gateway.settings.config_file import SCHEMA_FILE
from tests.support.dockerfile import Image
from tests.support.paths import ROOT
from tests.support.waiting import WAIT_SECONDS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = tuple(sorted(f"locks/{path.name}" for path in ROOT.glob("locks/*.lock")))
SCRIPTS = sorted((path for path in (ROOT / "scripts").glob("*.py")), key=str)


def locked(name: str) -> dict[str, str]:
    """Package → version, of one lock file."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text("utf-8"), re.MULTILINE))


def test_groups_repeat_the_extras() -> None:
    extras, groups = PROJECT["project"]["optional-dependencies"], PROJECT["dependency-groups"]
    names = ("azure", "bedrock", "documents", "fetch", "prices", "tests", "tui", "vertex")
    assert {name: groups[name] for name in names} == {name: extras[name] for name in names}


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
        ("locks/runtime.lock", PROJECT["project"]["dependencies"]),
        ("locks/build.lock", PROJECT["dependency-groups"]["build"]),
        ("locks/dev.lock", PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["build"]),
        ("locks/audit.lock", PROJECT["dependency-groups"]["audit"]),
        ("locks/docs.lock", PROJECT["dependency-groups"]["docs"]),
        ("locks/fuzz.lock", PROJECT["dependency-groups"]["fuzz"]),
        ("locks/engine.lock", PROJECT["dependency-groups"]["engine"]),
        ("locks/dev.lock", [line for line in PROJECT["dependency-groups"]["dev"] if isinstance(line, str)]),
        ("locks/dev.lock", PROJECT["dependency-groups"]["tests"]),
    ],
)
def test_locks_hold_what_the_project_asks_for(lock: str, requirements: list[str]) -> None:
    versions = locked(lock)
    for requirement in map(Requirement, requirements):
        assert requirement.specifier.contains(versions[requirement.name]), f"run scripts/lock.py: {requirement}"


def test_locks_agree_with_each_other() -> None:
    everything = locked("locks/dev.lock")
    for name in sorted({*LOCKS} - {"locks/differential.lock"}):  # that one is for another LiteLLM
        assert {
            package: version for package, version in locked(name).items() if package in everything
        }.items() <= everything.items()
    for name in ("locks/runtime.lock", "locks/build.lock"):
        assert locked(name).keys() <= everything.keys()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_run_anywhere(script: Path) -> None:
    """With the standard library alone, because nothing is installed before them."""
    tree = ast.parse(script.read_text("utf-8"))
    assert (ast.get_docstring(tree) or "")[:1].isupper()
    imports = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imports += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in imports} <= {*sys.stdlib_module_names, "environments", "tiers"}


def test_the_help_lists_every_script() -> None:
    done = subprocess.run([sys.executable, "scripts/help.py"], cwd=ROOT, check=True, capture_output=True, text=True)
    listed = re.findall(r"^  (scripts/\w+\.py)(?: ([\w-]+))? +[A-Z].+$", done.stdout, re.MULTILINE)
    scripts = [f"scripts/{path.name}" for path in SCRIPTS if path.name not in ("environments.py", "tiers.py")]
    assert [name for name, part in listed if not part] == scripts
    functions = ast.parse((ROOT / "scripts/ci.py").read_text("utf-8")).body
    parts = [node.name for node in functions if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    assert [part.replace("-", "_") for _, part in listed if part] == parts


def test_an_unknown_part_ends_with_the_list_of_parts() -> None:
    command = [sys.executable, "scripts/ci.py"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    failed = subprocess.run([*command, "atacks"], cwd=ROOT, check=False, capture_output=True, text=True)
    expected = f'There is no part "atacks".\n\n{listed.stdout}\n'
    assert (failed.returncode, failed.stdout, failed.stderr) == (1, "", expected)


def test_no_committed_file_names_a_machine_or_a_registry() -> None:
    """Committed files must install from any index and run in any folder."""
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


@pytest.mark.parametrize("row", [row for row in PROVIDERS if row.retired_models], ids=lambda row: row.name)
def test_the_start_pages_name_no_removed_default(row: Provider) -> None:
    """A reader that follows them gets models that answer."""
    text = (ROOT / "docs/start/providers.toml").read_text("utf-8")
    for model in (row.default_big_model, row.default_small_model):
        retired = row.retired_models.get(model or "")
        if retired is not None and date.fromisoformat(retired.retired_on) <= date(2026, 11, 20):
            assert f"={row.prefix}/{retired.successor}\n" in text, model


def test_the_wheel_holds_the_package_and_the_conformance_suite_alone(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    held = {name for name in names if ".dist-info/" not in name}
    packages = ((ROOT, "anthropic_proxy"), (ROOT / "conformance", "messages_conformance"))
    here = {
        path.relative_to(folder)
        for folder, package in packages
        for path in (folder / package).rglob("*")
        if path.is_file()
    }
    assert held == {path.as_posix() for path in here if "__pycache__" not in path.parts}
    assert {
        "anthropic_proxy/engine/providers/models.toml",
        "anthropic_proxy/engine/providers/vendors.toml",
        SCHEMA_FILE.relative_to(ROOT).as_posix(),
    } < held
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith(".pth") or ".data/" in name], "runs without being imported"


IMAGE = Image((ROOT / "Dockerfile").read_text("utf-8"))


def test_the_image_runs_without_root_and_watches_its_health() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", IMAGE.last("USER"))
    assert IMAGE.last("HEALTHCHECK").endswith('CMD ["anthropic-proxy", "health", "--alive"]')
    assert json.loads(IMAGE.last("CMD")) == ["anthropic-proxy", "serve", "--host", "0.0.0.0"]
    assert IMAGE.environment()["ALLOW_UNAUTHENTICATED"] == "true"


def test_the_image_is_built_from_the_lock_alone() -> None:
    installs = [command for run in IMAGE.all("RUN") for command in run.split("&&") if " install " in command]
    assert installs
    assert all("--require-hashes --no-deps" in command or "--no-index" in command for command in installs)
    assert IMAGE.all("FROM") == ["${PYTHON_IMAGE} AS build", "${PYTHON_IMAGE}"]
    assert re.fullmatch(r"python:\d[\w.]*-slim(@sha256:[0-9a-f]{64})?", IMAGE.arguments()["PYTHON_IMAGE"])
    extras = PROJECT["project"]["optional-dependencies"].keys() - {"litellm", "tests", "tui"}
    assert sorted(IMAGE.arguments()["EXTRAS"].split()) == sorted(extras)
    assert not IMAGE.all("ADD")


def test_the_image_contains_no_secret() -> None:
    assert IMAGE.arguments().keys() == {"PYTHON_IMAGE", "EXTRAS"}
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
    assert proxy["env_file"] == [{"path": name, "required": False} for name in (".env", "secrets/team.env")]
    assert proxy["volumes"] == ["ledger:/data"]
    assert not {"privileged", "network_mode", "user"} & set(proxy)


def test_the_team_profile_of_the_compose_file_publishes_on_loopback_and_reads_secrets_from_files() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    team = {name: service for name, service in compose["services"].items() if service.get("profiles") == ["team"]}
    assert team.keys() == compose["services"].keys() - {"proxy"} == {"postgres", "valkey", "prometheus", "grafana"}
    for service in team.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert not [name for name in service.get("environment", {}) if name.endswith(("PASSWORD", "KEY"))]
        assert set(service.get("secrets", [])) <= compose["secrets"].keys()
        mounts = [mount.split(":")[0] for mount in service.get("volumes", [])]
        assert all((ROOT / mount).exists() for mount in mounts if mount.startswith("./"))
        assert {mount for mount in mounts if not mount.startswith("./")} <= compose["volumes"].keys()
    assert all(secret["file"].startswith("./secrets/") for secret in compose["secrets"].values())


@pytest.mark.slow
def test_the_steps_of_the_image_serve(tmp_path: Path) -> None:
    IMAGE.build(ROOT, tmp_path)
    bill = json.loads((tmp_path / "image/opt/proxy/sbom.json").read_text("utf-8"))
    named = {component["name"].lower().replace("_", "-") for component in bill["components"]}
    assert locked("locks/runtime.lock").keys() - {"colorama", "uvloop"} <= named
    assert {"anthropic-proxy", "jinja2", "psycopg", "redis", "opentelemetry-sdk"} <= named
    startup = [path.name for path in tmp_path.rglob("site-packages/*.pth") if "proxy" in path.parts]
    assert startup == [], "no package may run code whenever Python starts: that is how keys were stolen in 2026"
    with IMAGE.run(tmp_path) as container:
        container.wait_until_healthy()
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


FAKE_PYTHON = """#!/bin/sh
case "$*" in *--version*) ;; *"pip install"*) echo "$*" >>"$0.log" ;; esac
"""


def set_up(checkout: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "scripts/setup.py", *words],
        check=False,
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout with a Python that only records the packages to install."""
    (tmp_path / "scripts").mkdir()
    for name in ("environments.py", "setup.py"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "locks", tmp_path / "locks")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return tmp_path


def installed(checkout: Path) -> list[str]:
    """Return the installed packages since the last call: the lock files, and `-e .` for the checkout itself."""
    log = checkout / ".venv" / "bin" / "python.log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [" ".join(re.findall(r"(?<=-r )\S+|-e \.", line)) for line in lines]


SERVE = "locks/runtime.lock locks/build.lock"
EXTRAS = (
    *("azure", "bedrock", "dashboard", "documents", "facts", "fetch", "import", "litellm", "oidc", "otel"),
    *("postgres", "prices", "redis", "tui", "vertex"),
)
FETCH, LITELLM, VERTEX = (f"locks/extra-{name}.lock" for name in ("fetch", "litellm", "vertex"))


def test_an_extra_is_added_to_the_live_checkout_and_kept(checkout: Path) -> None:
    for words, expected in (
        ([], [SERVE, "-e ."]),
        ([], []),
        (["vertex"], [f"{SERVE} {VERTEX}", "-e ."]),
        ([], []),
        (["vertex"], []),
        (["dev"], [f"locks/dev.lock {VERTEX}", "-e ."]),
        (["litellm"], [f"{SERVE} {VERTEX} {LITELLM}", "-e ."]),
        (["vertex", "litellm"], []),
        (["dev"], [f"locks/dev.lock {VERTEX} {LITELLM}", "-e ."]),
        ([], []),
    ):
        done = set_up(checkout, *words)
        assert (done.returncode, installed(checkout)) == (0, expected), (words, done.stderr)


def test_an_unknown_extra_is_refused_with_those_that_exist(checkout: Path) -> None:
    done = set_up(checkout, "vertx")
    assert (done.returncode, done.stderr) == (2, f'There is no extra "vertx"; there are: {", ".join(EXTRAS)}\n')
    assert [name for name in LOCKS if "/extra-" in name] == [f"locks/extra-{name}.lock" for name in EXTRAS]
    assert installed(checkout) == []


def test_no_text_installs_the_project_from_an_index() -> None:
    """The project is not published: a name in an index could belong to another project."""
    published = re.compile(
        r"(?:pip|pipx|uv tool|uv) (?:install|add) +['\"]?anthropic-proxy\b|uvx anthropic-proxy|anthropic-proxy\["
    )
    assert committed_lines(published) == []


def committed_lines(pattern: re.Pattern[str]) -> list[str]:
    """Return the lines of committed texts in which a pattern is found, without those of this module."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = [ROOT / name for name in names.split("\0") if name and name != "tests/repository/test_packaging.py"]
    texts = [(file, file.read_text("utf-8", errors="replace")) for file in files if file.is_file()]
    return [
        f"{file.relative_to(ROOT)}: {line}"
        for file, text in texts
        for line in text.splitlines()
        if pattern.search(line)
    ]


CLAUDE_COMMAND = re.compile(r"ANTHROPIC_BASE_URL=\S+ (?!ANTHROPIC_AUTH_TOKEN=)(?:\w+=\S+ )*claude\b")


def test_every_shown_command_of_claude_code_has_a_credential() -> None:
    assert CLAUDE_COMMAND.search("ANTHROPIC_BASE_URL={where} claude")
    assert committed_lines(CLAUDE_COMMAND) == []


def test_start_up_loads_no_library_of_a_feature_that_is_off() -> None:
    """An unused HTTP client, a schema library or an HTML parser costs ten MiB and a third of the start-up time."""
    heavy = (
        "('aiohttp', 'azure', 'botocore', 'google', 'jsonschema', 'litellm', 'lxml', 'prometheus_client', 'pypdfium2', "
        "'requests', 'sqlalchemy')"
    )
    code = (
        f"import sys, anthropic_proxy.app; print([name for name in sys.modules if name.partition('.')[0] in {heavy}])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
