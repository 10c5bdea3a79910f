"""Build of the documentation site with zensical, from docs/ and four pages of the repository root."""

import html
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Set
from pathlib import Path
from urllib.parse import unquote

from tests.site.pages import DOCS, links, replace_links
from tests.support.paths import ROOT

CONFIGURATION = DOCS / "zensical.toml"
OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing/index.md",
    "SECURITY.md": "security.md",
    ".env.example": "env.example.txt",
}
"""Files outside docs/ → their place in the site. A link to any other file outside docs/ becomes plain text."""
_UNUSED = re.compile(r"https://(?:unpkg\.com|cdn\.jsdelivr\.net|api\.github\.com)/")
_LOADED = re.compile(
    r"<(?:link|script|img|source|iframe|video|audio|object|embed|use)\b[^>]*?\b(?:href|src|srcset|data)=\"?([^\"\s>]+)"
    r"|url\(([^)]+)\)|@import\s+[\"']([^\"']+)"
)
_EXCLUDED = re.compile(r"^( *```\w+) [\w ]+$", re.MULTILINE)
"""Opening line of a block that is not run, because of a word after its language. zensical does not accept the word."""
_DEFINITION = re.compile(r"^\[([^\]\n]+)\]: (\S+)\n?", re.MULTILINE)
_REFERENCE = re.compile(r"\[([^\]\n]*)\]\[([^\]\n]+)\]")
_DIRECT = re.compile(r"\[([^\]\n]*)\]\(([^()\s]+)\)")
_HREF = re.compile(r"<a\b[^>]*?\bhref=\"?([^\"\s>]+)")
_ID = re.compile(r"\b(?:id|name)=\"?([^\"\s>]+)")
_SCHEME = re.compile(r"[a-z]+:|//|\.\./\.\./actions/")
_HOST = re.compile(r"(?:https?:)?//(?!www\.w3\.org/)")
_SCRIPT_HOST = re.compile(r"https?://[\w.-]+")
_COMMENTED = {"http://www.w3.org", "https://fontawesome.com"}
"""Names of XML vocabularies, and a license notice in the style sheets: nothing is loaded from these."""


class BuildFailed(Exception):
    """The build of the site reported a warning or an error."""


def build(python: str, target: Path) -> list[Path]:
    """Build the site in a folder, which is emptied first. Return the pages. `python`: has the packages of docs.lock."""
    shutil.rmtree(target, ignore_errors=True)
    stage(target)
    words = [python, "-m", "zensical", "build", "--clean", "--strict", "--config-file", str(target / "zensical.toml")]
    done = subprocess.run(
        words, cwd=target, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, check=False
    )
    report = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    if done.returncode or "No issues found" not in report:
        raise BuildFailed(report.partition("Traceback")[0])
    site = target / "site"
    for script in site.rglob("*.js"):  # features that no page uses load these from other hosts
        script.write_text(_UNUSED.sub("./not-part-of-this-site/", script.read_text("utf-8")), "utf-8")
    return sorted(site.rglob("*.html"))


def stage(target: Path) -> None:
    """Copy docs/ and the files of `OUTSIDE` to `target`/docs, with their links changed accordingly."""
    for path in sorted(DOCS.rglob("*")):
        if path.is_file() and path != CONFIGURATION:
            _copy(path, target)
    for name in OUTSIDE:
        _copy(ROOT / name, target)
    shutil.copy(CONFIGURATION, target / "zensical.toml")


def foreign_hosts(site: Path) -> Iterator[str]:
    """Find addresses of other hosts that a browser would load: in pages and styles, and in scripts."""
    for path in sorted(site.rglob("*")):
        name = path.relative_to(site)
        if path.suffix in (".html", ".css", ".svg"):
            for match in _LOADED.finditer(path.read_text("utf-8")):
                address = next(filter(None, match.groups())).strip("\"'")
                if _HOST.match(address) and (match[0].startswith(("url", "@")) or 'rel="canonical"' not in match[0]):
                    yield f"{name}: {address}"
        elif path.suffix == ".js":
            yield from (
                f"{name}: {host}" for host in _SCRIPT_HOST.findall(path.read_text("utf-8")) if host not in _COMMENTED
            )


def _place(path: Path) -> Path | None:
    """Return the place of a file of the repository in the site. None: it is not in the site."""
    name = path.relative_to(ROOT).as_posix()
    if name in OUTSIDE:
        return Path(OUTSIDE[name])
    return path.relative_to(DOCS) if path.is_relative_to(DOCS) else None


def _copy(path: Path, target: Path) -> None:
    place = _place(path)
    if place is None:
        raise ValueError(f"{path} is not in the site")
    copy = target / "docs" / place
    copy.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".md":
        shutil.copy(path, copy)
        return
    text = _EXCLUDED.sub(r"\1", path.read_text("utf-8"))
    addresses = {}
    outside = set[str]()
    for address in links(text):
        name, mark, anchor = address.partition("#")
        if name and (linked := _place((path.parent / name).resolve())):
            addresses[address] = Path(os.path.relpath(linked, place.parent)).as_posix() + mark + anchor
        elif name:
            outside.add(address)
    copy.write_text(replace_links(_unlink(text, outside), addresses), "utf-8")


def _unlink(text: str, addresses: Set[str]) -> str:
    """Return a page with the texts of links to `addresses` in place of the links."""
    names = {name for name, address in _DEFINITION.findall(text) if address in addresses}
    text = _DEFINITION.sub(lambda match: "" if match[1] in names else match[0], text)
    text = _REFERENCE.sub(lambda match: match[1] if match[2] in names else match[0], text)
    return _DIRECT.sub(lambda match: match[1] if match[2] in addresses else match[0], text)


def dead_links(site: Path) -> list[str]:
    """Return `page: address` for each link of a built page to a file or an anchor that the site does not have."""
    pages = {page: page.read_text("utf-8") for page in site.rglob("*.html")}
    anchors = {page: set(_ID.findall(text)) for page, text in pages.items()}
    dead = []
    for page, text in sorted(pages.items()):
        for address in dict.fromkeys(map(html.unescape, _HREF.findall(text))):
            if _SCHEME.match(address):
                continue
            name, _, anchor = address.partition("#")
            path = unquote(name.partition("?")[0])
            start = site if path.startswith("/") else page.parent
            target = (start / path.lstrip("/")).resolve() if name else page
            target = target / "index.html" if target.is_dir() else target
            is_dead = not target.is_file() or (anchor and target in anchors and unquote(anchor) not in anchors[target])
            if is_dead:
                dead.append(f"{page.relative_to(site).as_posix()}: {address}")
    return dead
