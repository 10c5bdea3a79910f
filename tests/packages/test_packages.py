"""The package as users install it: into an empty environment, with each installer, and each extra by itself."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from anthropic_proxy import __version__
from tests.support.dockerfile import Image
from tests.support.paths import ROOT
from tests.support.server_process import reserve_closed_port

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = {*PROJECT["optional-dependencies"]} - {"tests"}
IMPORTED = {
    "azure": "azure.identity",
    "bedrock": "botocore.session",
    "dashboard": "jinja2",
    "documents": "pypdfium2",
    "facts": "cryptography.hazmat.primitives.asymmetric.ed25519",
    "fetch": "lxml.html",
    "import": "yaml",
    "litellm": "litellm, boto3",
    "oidc": "authlib.oidc.core, joserfc.jwt, anthropic_proxy.console.identity.oidc_client",
    "otel": "opentelemetry.sdk.trace, opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "postgres": "psycopg",
    "prices": "genai_prices",
    "redis": "redis",
    "tui": "textual",
    "vertex": "google.auth.transport.requests",
}
"""Extra → modules that it installs."""


def run(*words: str | Path, directory: Path, **variables: str) -> str:
    """Run a command with a home directory and an environment of its own. Return its output."""
    kept = {name: value for name, value in os.environ.items() if re.match(r"PIP_|UV_|SSL_|LANG|LC_|TMPDIR", name)}
    config = {"PIP_CONFIG_FILE": str(Path("~/.config/pip/pip.conf").expanduser())}
    path = f"{Path(words[0]).parent}:{os.defpath}"
    own = {**config, **kept, "HOME": str(directory), "PATH": path, "UV_CACHE_DIR": str(cache()), **variables}
    done = subprocess.run(words, cwd=directory, env=own, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def cache() -> Path:
    return Path(os.environ.get("UV_CACHE_DIR") or "~/.cache/uv").expanduser()


def use(program: str | Path, directory: Path, *before: str | Path) -> None:
    """Use an installed program as a new user does: without settings, so that the demo replies."""
    command = (*before, program)
    assert run(*command, "--version", directory=directory) == f"anthropic-proxy {__version__}\n"
    variables = {
        "OLLAMA_API_BASE": "http://127.0.0.1:9",
        "PORT": reserve_closed_port(),
    }  # no proxy of the user is found
    assert "demo" in run(*command, "ask", "hello", directory=directory, **variables)


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the programs uv, uvx and pipx."""
    folder = tmp_path_factory.mktemp("tools")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", "uv", "pipx"], check=True)
    return folder / "bin"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the built wheel and sdist."""
    folder = tmp_path_factory.mktemp("built")
    for target in ("wheel", "sdist"):
        subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder], cwd=ROOT, check=True)
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


def new_environment(tools: Path, directory: Path) -> Path:
    """Create an environment without packages and return its Python."""
    run(tools / "uv", "venv", "-q", "--python", sys.executable, directory / "empty", directory=directory)
    return directory / "empty/bin/python"


def test_the_sdist_builds_the_same_wheel(built: dict[str, Path], tmp_path: Path) -> None:
    with tarfile.open(built["sdist"]) as archive:
        archive.extractall(tmp_path, filter="data")
    source = next(tmp_path.glob("anthropic_proxy-*"))
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=source, check=True)
    again, first = next(tmp_path.glob("*.whl")), built["wheel"]
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(first).namelist()


@pytest.mark.parametrize(
    ("installer", "kind"),
    [
        ("pip", "wheel"),
        ("uv", "sdist"),
        pytest.param("pip", "sdist", marks=pytest.mark.slow),
        pytest.param("uv", "wheel", marks=pytest.mark.slow),
    ],
)
def test_an_empty_environment(kind: str, installer: str, built: dict[str, Path], tools: Path, tmp_path: Path) -> None:
    if installer == "uv":
        python = new_environment(tools, tmp_path)
        run(tools / "uv", "pip", "install", "-q", "--python", python, built[kind], directory=tmp_path)
    else:
        python = tmp_path / "empty/bin/python"
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        run(python, "-m", "pip", "install", "-q", built[kind], directory=tmp_path)
    use(python.parent / "anthropic-proxy", tmp_path)


def test_pipx(built: dict[str, Path], tools: Path, tmp_path: Path) -> None:
    variables = {"PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    run(tools / "pipx", "install", "--python", sys.executable, str(built["wheel"]), directory=tmp_path, **variables)
    use(tmp_path / "bin/anthropic-proxy", tmp_path)


def test_uvx(built: dict[str, Path], tools: Path, tmp_path: Path) -> None:
    use("anthropic-proxy", tmp_path, tools / "uvx", "-q", "--python", sys.executable, "--from", str(built["wheel"]))


def test_uv_tool_install(built: dict[str, Path], tools: Path, tmp_path: Path) -> None:
    variables = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    words = ("tool", "install", "-q", "--python", sys.executable, str(built["wheel"]))
    run(tools / "uv", *words, directory=tmp_path, **variables)
    use(tmp_path / "bin/anthropic-proxy", tmp_path)


@pytest.mark.parametrize("installer", ["uv", "pipx"])
def test_add_reads_nothing_of_the_directory(
    installer: str, built: dict[str, Path], tools: Path, tmp_path: Path
) -> None:
    variables = {"PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    if installer == "uv":
        python = new_environment(tools, tmp_path)
        run(tools / "uv", "pip", "install", "-q", "--python", python, built["wheel"], directory=tmp_path)
        program = python.parent / "anthropic-proxy"
    else:
        words = ("install", "--python", sys.executable, str(built["wheel"]))
        run(tools / "pipx", *words, directory=tmp_path, **variables)
        program = tmp_path / "bin/anthropic-proxy"
    project = tmp_path / "project"
    (project / "pip").mkdir(parents=True)
    for name in ("__init__", "__main__"):
        (project / f"pip/{name}.py").write_text("raise SystemExit('code of the project')")
    (project / "uv.toml").write_text('[[index]]\nurl = "http://127.0.0.1:9/simple"\ndefault = true\n')
    own = {**variables, "HOME": str(tmp_path), "PATH": f"{tools}:{os.defpath}"}
    run(program, "add", "import", directory=project, **own)
    listed = json.loads(run(program, "add", "--json", directory=project, **own))
    assert {row["extra"]: row["installed"] for row in listed}["import"]


@pytest.mark.parametrize(
    "extra",
    [
        "dashboard",
        "postgres",
        *(pytest.param(extra, marks=pytest.mark.slow) for extra in sorted(EXTRAS - {"dashboard", "postgres"})),
    ],
)
def test_each_extra_by_itself(extra: str, built: dict[str, Path], tools: Path, tmp_path: Path) -> None:
    python = new_environment(tools, tmp_path)
    run(tools / "uv", "pip", "install", "-q", "--python", python, f"{built['wheel']}[{extra}]", directory=tmp_path)
    run(python, "-c", f"import {IMPORTED[extra]}", directory=tmp_path)
    use(python.parent / "anthropic-proxy", tmp_path)


def test_the_image_with_every_extra(tmp_path: Path) -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    every, count = re.subn(r'ARG EXTRAS="[^"]*"', f'ARG EXTRAS="{" ".join(sorted(EXTRAS))}"', text)
    assert count == 1
    image = Image(every)
    image.build(ROOT, tmp_path)
    python = next((tmp_path / "image/opt/proxy/bin").glob("python3"))
    modules = ", ".join(IMPORTED[extra] for extra in sorted(EXTRAS))
    run(python, "-c", f"import {modules}", directory=tmp_path)
    use(python.parent / "anthropic-proxy", tmp_path)
