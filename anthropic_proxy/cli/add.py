"""Command `add`: installs extras (optional packages of the proxy) in the way in which the proxy itself is installed."""

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from anthropic_proxy.cli.output import Column, Output
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.platforms.program import is_temporary_installation
from anthropic_proxy.errors import PACKAGE, ConfigurationError, is_installed, join_with_and, suggest_name
from anthropic_proxy.gateway.platforms.processes import find_program
from anthropic_proxy.gateway.settings import copy_environment
from anthropic_proxy.gateway.settings.place import find_checkout

EXTRAS = {
    "dashboard": "the dashboard",
    "documents": "text of PDFs for models that accept none",
    "prices": "prices of models, and costs of requests",
    "facts": "models update: newer facts about models",
    "tui": "the full-screen view: logs --live",
    "vertex": "Vertex AI: Google Cloud credentials",
    "bedrock": "Amazon Bedrock: AWS credentials",
    "azure": "Azure: tokens of Entra ID",
    "litellm": "providers of LiteLLM",
    "fetch": "FETCH_URLS: web pages as text",
    "import": "import of a YAML file",
    "postgres": "PostgreSQL for the usage ledger and virtual keys",
    "redis": "limits of several instances in Redis or Valkey",
    "oidc": "sign-in to the dashboard with an identity provider",
    "otel": "traces with OpenTelemetry",
}
"""Name of an extra → its purpose."""
_MADE_BY_UV = compile_later(r"^uv\s*=", re.MULTILINE)
_NAME_END = compile_later(r"[^\w.-]")
_REQUIREMENT = compile_anchored(r"(.+?) *; *extra *== *['\"](.+)['\"]", most=500)


def add(*extras: str, as_text: Annotated[bool, Parameter(name="--print")] = False, as_json: bool = False) -> None:
    """Parameters
    ----------
    extras
        Names of the extras, such as dashboard. Without a name, all extras are listed.
    as_text
        Print the command that installs them instead.
    as_json
        List all extras as one JSON array.
    """
    output = Output()
    packages = {extra: list_requirements(extra) for extra in EXTRAS}
    if as_json or not extras:
        installed = dict.fromkeys(EXTRAS, False)
        for extra in EXTRAS:
            with suppress(PackageNotFoundError):
                installed[extra] = all(version(_NAME_END.split(text, maxsplit=1)[0]) for text in packages[extra])
        if as_json:
            rows = [{"extra": extra, "installed": installed[extra], "packages": packages[extra]} for extra in EXTRAS]
            output.write_json(rows)
            return
        columns = [Column("Extra"), Column("Installed"), Column("For", wraps=True)]
        output.write_table(columns, [(extra, "✓" if installed[extra] else "–", EXTRAS[extra]) for extra in EXTRAS])
        return
    for extra in extras:
        if extra not in EXTRAS:
            remedy = suggest_name("extra", extra, EXTRAS, lead=f"{PACKAGE} add ")
            raise ConfigurationError(f'There is no extra "{extra}". {remedy}', code="extra-not-installed")
    command = find_install_command(
        extras,
        [package for extra in extras for package in packages[extra]],
        python=sys.executable,
        prefix=Path(sys.prefix),
        checkout=find_checkout(),
        environ=copy_environment(),
        has_pip=is_installed("pip"),
    )
    if as_text:
        shown = subprocess.list2cmdline(command) if sys.platform == "win32" else shlex.join(command)
        output.write_text(f"{shown}\n")
        return
    # pip, pipx and uv read files of the current directory and its parents, which a stranger may have written
    if status := subprocess.run(command, cwd=Path(sys.prefix).anchor, check=False).returncode:
        sys.exit(status)
    used = "it" if len(extras) == 1 else "them"
    output.write_notice(f"Added {join_with_and(extras)}. A running proxy uses {used} after its next start.", "✓")


def list_requirements(extra: str) -> list[str]:
    """Return the packages of an extra with their version ranges: `jinja2<4,>=3.1`."""
    matches = (_REQUIREMENT.fullmatch(text) for text in requires(PACKAGE) or ())
    return [match[1] for match in matches if match is not None and match[2] == extra]


def find_install_command(
    extras: Sequence[str],
    requirements: Sequence[str],
    *,
    python: str,
    prefix: Path,
    checkout: Path | None,
    environ: Mapping[str, str],
    has_pip: bool,
) -> list[str]:
    """Return the command that adds `requirements`, the packages of `extras`, to the environment `prefix` of `python`.

    It names the packages and not the extra, because another project could have our name in a package index.
    With pip or uv it reads nothing of the current directory, for a user who runs the text of `--print` in any.
    `has_pip`: pip is installed in the environment. Raises `ConfigurationError` if nothing can install packages there.
    """
    if is_temporary_installation(python):
        raise ConfigurationError(
            f"{python} is a temporary environment, which can be removed at any time. Install the proxy first.",
            code="extra-not-installed",
        )
    uv = find_program("uv", environ)
    if checkout is not None and prefix == checkout / ".venv":
        if uv and _MADE_BY_UV.search((prefix / "pyvenv.cfg").read_text(encoding="utf-8")):
            options = [word for extra in extras for word in ("--extra", extra)]
            return [uv, "sync", "--project", str(checkout), "--inexact", *options]
        # the Python of the system, because the environment may have no pip
        return [str(getattr(sys, "_base_executable", python)), str(checkout / "scripts/setup.py"), *extras]
    pipx = find_program("pipx", environ)
    if pipx and (prefix / "pipx_metadata.json").exists():
        return [pipx, "inject", prefix.name, *requirements]
    if has_pip:
        return [python, "-P", "-m", "pip", "install", *requirements]
    if uv:
        return [uv, "--directory", prefix.anchor, "pip", "install", "--python", python, *requirements]
    raise ConfigurationError(
        f"The environment {prefix} has no pip, and there is no program uv in PATH. Install there: "
        f"{' '.join(requirements)}",
        code="extra-not-installed",
    )
