"""A Homebrew formula and a winget manifest, generated from templates for one version."""

import tomllib
from collections.abc import Mapping
from string import Template

from tests.support.paths import ROOT

TEMPLATES = ROOT / "tests/release/templates"
FORMULA = "anthropic-proxy.rb"
WINGET_FILES = ("version", "installer", "locale.en-US")
"""Names of the three files of a winget manifest, after the package identifier."""
IDENTIFIER = "AnthropicProxy.AnthropicProxy"


def write_formula(version: str, url: str, sha256: str) -> str:
    """Return the Homebrew formula. `url`, `sha256`: address and digest of the source archive."""
    return _fill(FORMULA, {"version": version, "url": url, "sha256": sha256})


def write_winget_manifest(version: str, url: str, sha256: str, day: str) -> dict[str, str]:
    """Return file name → text of the winget manifest. `url`, `sha256`: zip file with the program for Windows."""
    values = {"version": version, "url": url, "sha256": sha256.upper(), "day": day, "identifier": IDENTIFIER}
    names = {kind: IDENTIFIER if kind == "version" else f"{IDENTIFIER}.{kind}" for kind in WINGET_FILES}
    return {f"{name}.yaml": _fill(f"winget.{kind}.yaml", values) for kind, name in names.items()}


def _fill(template: str, values: Mapping[str, str]) -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    shared = {"description": str(project["description"]).removesuffix("."), "license": str(project["license"])}
    return Template((TEMPLATES / template).read_text("utf-8")).substitute({**shared, **values})
