"""The documentation site: links, navigation, and a strict build that loads nothing from another host."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.site.build import CONFIGURATION, OUTSIDE, dead_links, stage
from tests.site.pages import DOCS, all_pages, anchors, broken_links, broken_lists, links
from tests.support.paths import ROOT

NAMED = re.compile(r"(?<![\w./-])(docs/(?:start|guide|fix|reference|compare|contributing)/[\w./-]+\.md)(?:#([\w-]+))?")
"""Place of the documentation, as messages, comments and settings name it."""
NOT_IN_THE_NAVIGATION = ("contributing/decisions/",)
"""Folders of pages that an index page links to instead."""


def navigation(entries: list[object]) -> list[str]:
    """Return the pages of the navigation, in order."""
    found: list[str] = []
    for entry in entries:
        match entry:
            case str():
                found.append(entry)
            case dict():
                found += navigation(list(entry.values()))
            case list():
                found += navigation(entry)
    return found


@pytest.mark.parametrize("page", all_pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_anchors_exist(page: Path) -> None:
    assert broken_links(page) == []


def test_each_place_that_code_and_settings_name_exists() -> None:
    files = [
        ROOT / ".env.example",
        *(
            path
            for folder in ("anthropic_proxy", "deploy", "bench")
            for path in (ROOT / folder).rglob("*")
            if path.suffix in (".py", ".toml", ".yaml", ".service")
        ),
    ]
    named = {places for path in files for places in NAMED.findall(path.read_text("utf-8"))}
    assert len(named) > 5
    assert [
        (page, anchor)
        for page, anchor in sorted(named)
        if not (ROOT / page).is_file() or (anchor and anchor not in anchors((ROOT / page).read_text("utf-8")))
    ] == []


@pytest.mark.parametrize("page", all_pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_steps_are_numbered_on_the_site_as_in_the_page(page: Path) -> None:
    assert broken_lists(page.read_text("utf-8")) == []


def test_points_behind_steps_and_steps_behind_a_block_are_found() -> None:
    page = "1. a\n\n    ```\n    b\n    ```\n\n2. c\n\n- d\n\n1. e\n\n```\nf\n```\n\n2. g\n\nText.\n\n- h\n"
    assert broken_lists(page) == ["- d", "2. g"]


def test_the_navigation_has_every_page_once() -> None:
    listed = navigation(tomllib.loads(CONFIGURATION.read_text("utf-8"))["project"]["nav"])
    written = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    written += [place for place in OUTSIDE.values() if place.endswith(".md")]
    index = "contributing/decisions/index.md"
    assert sorted(listed) == sorted(
        name for name in written if name == index or not name.startswith(NOT_IN_THE_NAVIGATION)
    )


@pytest.mark.parametrize("picture", sorted((DOCS / "pictures").glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_is_used_has_a_description_and_loads_nothing(picture: Path) -> None:
    drawn = picture.read_text("utf-8")
    pages = [page for page in all_pages() if f"pictures/{picture.name})" in page.read_text("utf-8")]
    assert pages != []
    assert 'role="img" aria-label="' in drawn
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)[^<]*", re.sub(r"<text[^>]*>[^<]*</text>", "", drawn)) == []
    assert [found for found in ("<script", "@import", "@font-face") if found in drawn] == []
    assert len(drawn) < 300_000


def test_a_page_of_the_site_links_to_no_file_outside_it(tmp_path: Path) -> None:
    """The generated pages are included. `scripts/ci.py docs` follows each link of the built pages too."""
    stage(tmp_path)
    folder = tmp_path / "docs"
    pages = {page: links(page.read_text("utf-8")) for page in folder.rglob("*.md")}
    assert [
        f"{page.relative_to(folder)}: {address}"
        for page, addresses in pages.items()
        for address in addresses
        if (name := address.partition("#")[0]) and not (page.parent / name).exists()
    ] == []


def test_dead_links_of_built_pages_are_found(tmp_path: Path) -> None:
    (tmp_path / "guide").mkdir()
    (tmp_path / "index.html").write_text('<h1 id="top">Top</h1><a href="guide/a.html#b">A</a><a href=https://x.test>')
    links_of_page = (
        '<p id=b><a href="../index.html#top"><a href="#c"><a href="../index.html#no"><a class="x" href=b.html>'
    )
    (tmp_path / "guide/a.html").write_text(links_of_page)
    assert dead_links(tmp_path) == ["guide/a.html: #c", "guide/a.html: ../index.html#no", "guide/a.html: b.html"]


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_another_host() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/ci.py", "docs"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pages = [path.relative_to(ROOT / "dist/docs/site").as_posix() for path in (ROOT / "dist/docs/site").rglob("*.html")]
    assert {"index.html", "changelog.html", "guide/matrix.html"} <= set(pages)
