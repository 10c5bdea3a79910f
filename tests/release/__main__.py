"""`python -m tests.release check VERSION` and `build VERSION URL`: the conditions of a release, and its files.

`scripts/ci.py release` runs both, with the gate between them. Nothing is uploaded.
"""

import hashlib
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

from anthropic_proxy import __version__
from tests.release.manifests import FORMULA, write_formula, write_winget_manifest
from tests.site.changelog import list_fragments
from tests.site.install_page import PUBLISHED
from tests.support.paths import ROOT

OUTPUT = ROOT / "dist/release"
PERFORMANCE = "docs/contributing/performance.md"
MAX_COMMITS_OF_FIGURES = 200


def find_problems(version: str, checkout: Path = ROOT) -> list[str]:
    """Return the conditions of a release that a checkout does not meet, each with the remedy."""
    problems = []
    if version != __version__:
        problems.append(f"The version is {__version__}, not {version}. Set it in anthropic_proxy/__init__.py.")
    if changes := _git(checkout, "status", "--porcelain"):
        problems.append(f"The tree has changes that are not committed: {len(changes.splitlines())} files. Commit them.")
    if _git(checkout, "tag", "--list", f"v{version}"):
        problems.append(f"The tag v{version} exists. Choose a new version.")
    heading = re.search(r"^## (.+)$", (checkout / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    if heading is None or not re.fullmatch(rf"{re.escape(version)}, \d{{4}}-\d\d-\d\d", heading[1]):
        found = heading[1] if heading else "nothing"
        problems.append(f'CHANGELOG.md begins with "{found}". Name the version and its day: ## {version}, 2026-12-31')
    if fragments := list_fragments(checkout):
        problems.append(
            f"changes/ has {len(fragments)} files that are not in CHANGELOG.md. Run scripts/fix.py --changelog"
        )
    problems += _find_old_figures(checkout)
    if not PUBLISHED:
        problems.append(
            "Texts name commands of a checkout. Set PUBLISHED in tests/site/install_page.py, run scripts/fix.py"
        )
    return problems


def _find_old_figures(checkout: Path) -> list[str]:
    remedy = "Run scripts/ci.py bench --full --peers --write on an idle machine."
    measured = re.search(r"^Measured at commit `([0-9a-f]{7,40})", (checkout / PERFORMANCE).read_text("utf-8"), re.M)
    if measured is None:
        return [f"{PERFORMANCE} does not name the commit of its figures. {remedy}"]
    try:
        count = int(_git(checkout, "rev-list", "--count", f"{measured[1]}..HEAD"))
    except subprocess.CalledProcessError:
        return [f"{PERFORMANCE} has figures of the unknown commit {measured[1]}. {remedy}"]
    if count > MAX_COMMITS_OF_FIGURES:
        return [
            f"{PERFORMANCE} has figures of {measured[1]}, {count:,} commits before this one; at most "
            f"{MAX_COMMITS_OF_FIGURES} are allowed. {remedy}"
        ]
    return []


def build_release(version: str, url: str, output: Path = OUTPUT) -> list[Path]:
    """Build sdist and wheel, and write the manifests. `url`: folder of the published files. Return all paths."""
    output.mkdir(parents=True, exist_ok=True)
    for target in ("sdist", "wheel"):
        subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", target, "-d", output], cwd=ROOT, check=True)
    archive = output / f"anthropic_proxy-{version}.tar.gz"
    (output / FORMULA).write_text(write_formula(version, f"{url}/{archive.name}", _digest(archive)), "utf-8")
    program = output / f"anthropic-proxy-{version}-windows-x64.zip"
    if program.exists():  # built on Windows
        files = write_winget_manifest(version, f"{url}/{program.name}", _digest(program), date.today().isoformat())
        for name, text in files.items():
            (output / name).write_text(text, "utf-8")
    return sorted(output.iterdir())


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _git(checkout: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=checkout, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def main(action: str, version: str, url: str = "") -> None:
    """Run one action of the command line."""
    if action == "check":
        problems = find_problems(version)
        if problems:
            sys.exit("\n".join(("No release:", *problems)))
        return
    for path in build_release(version, url):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main(*sys.argv[1:])
