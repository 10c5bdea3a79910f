"""The release: its conditions, and the generated manifests."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from anthropic_proxy import __version__
from tests.release.__main__ import find_problems
from tests.release.manifests import write_formula, write_winget_manifest
from tests.site.changelog import SECTIONS, find_fragment_problems, join_fragments, list_fragments
from tests.site.install_page import list_start_commands
from tests.support.paths import ROOT

URL, DIGEST = "https://example.com/anthropic_proxy-9.1.0.tar.gz", "ab" * 32


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "CHANGELOG.md").write_text(f"# Changes\n\n## {__version__}, 2026-12-01\n")
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    write_figures(tmp_path, git(tmp_path, "rev-parse", "HEAD"))
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path, count: int = 1) -> None:
    git(folder, "add", "-A")
    for _ in range(count):
        git(folder, "commit", "-q", "--allow-empty", "-m", "One")


def write_figures(folder: Path, measured: str) -> None:
    page = folder / "docs/contributing/performance.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"Measured at commit `{measured}`. A machine.\n")


def write_fragment(folder: Path, name: str, text: str) -> None:
    path = folder / "changes" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


NOT_PUBLISHED = "Texts name commands of a checkout. Set PUBLISHED in tests/site/install_page.py, run scripts/fix.py"


def test_a_clean_checkout_of_the_version_is_accepted(checkout: Path) -> None:
    assert find_problems(__version__, checkout) == [NOT_PUBLISHED]


def test_a_release_is_refused_with_every_reason(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text("# Changes\n\n## 9.1.0, not yet released\n")
    write_fragment(checkout, "docs/page.md", "- A page.\n")
    subprocess.run(["git", "tag", "v9.1.0"], cwd=checkout, check=True)
    assert find_problems("9.1.0", checkout) == [
        f"The version is {__version__}, not 9.1.0. Set it in anthropic_proxy/__init__.py.",
        "The tree has changes that are not committed: 2 files. Commit them.",
        "The tag v9.1.0 exists. Choose a new version.",
        'CHANGELOG.md begins with "9.1.0, not yet released". Name the version and its day: ## 9.1.0, 2026-12-31',
        "changes/ has 1 files that are not in CHANGELOG.md. Run scripts/fix.py --changelog",
        NOT_PUBLISHED,
    ]


MEASURE = "Run scripts/ci.py bench --full --peers --write on an idle machine."


def test_a_release_is_refused_if_its_figures_are_old(checkout: Path) -> None:
    measured = git(checkout, "rev-list", "--max-parents=0", "HEAD")
    commit(checkout, 199)
    assert find_problems(__version__, checkout) == [NOT_PUBLISHED]
    commit(checkout)
    assert find_problems(__version__, checkout) == [
        f"docs/contributing/performance.md has figures of {measured}, 201 commits before this one; at most 200 are "
        f"allowed. {MEASURE}",
        NOT_PUBLISHED,
    ]


@pytest.mark.parametrize(
    ("measured", "problem"),
    [
        ("0123456789", f"has figures of the unknown commit 0123456789. {MEASURE}"),
        ("yesterday", f"does not name the commit of its figures. {MEASURE}"),
    ],
)
def test_figures_name_a_commit_of_the_history(checkout: Path, measured: str, problem: str) -> None:
    write_figures(checkout, measured)
    commit(checkout)
    assert find_problems(__version__, checkout) == [f"docs/contributing/performance.md {problem}", NOT_PUBLISHED]


def test_the_fragments_of_the_change_log_have_known_sections_and_short_lines() -> None:
    assert find_fragment_problems() == []


def test_the_headings_of_the_change_log_have_a_section_for_fragments() -> None:
    headings = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert sorted({*headings} - {*SECTIONS.values()}) == []


SECTION_NAMES = ", ".join(SECTIONS)


@pytest.mark.parametrize(
    ("name", "text", "problems"),
    [
        (
            "page/a.md",
            "- A page.\n",
            [f"changes/page/a.md is no fragment. Name it changes/SECTION/NAME.md; sections are {SECTION_NAMES}."],
        ),
        (
            "docs/a.txt",
            "- A page.\n",
            [f"changes/docs/a.txt is no fragment. Name it changes/SECTION/NAME.md; sections are {SECTION_NAMES}."],
        ),
        (
            "docs/more/a.md",
            "- A page.\n",
            [f"changes/docs/more/a.md is no fragment. Name it changes/SECTION/NAME.md; sections are {SECTION_NAMES}."],
        ),
        ("docs/a.md", "", ["changes/docs/a.md is empty."]),
        (
            "docs/a.md",
            "- A page.\n\nText\n- \n",
            [
                f'changes/docs/a.md, line {number} is no entry. Write one entry on each line: "- text".'
                for number in (2, 3, 4)
            ],
        ),
        ("docs/a.md", f"- {'word ' * 25}\n", []),
        ("docs/a.md", f"- {'word ' * 26}\n", ["changes/docs/a.md, line 1 has 26 words; at most 25 are allowed."]),
    ],
)
def test_a_fragment_is_refused_with_its_line_and_the_remedy(
    tmp_path: Path, name: str, text: str, problems: list[str]
) -> None:
    write_fragment(tmp_path, name, text)
    assert find_fragment_problems(tmp_path) == problems
    if problems:
        (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## 9.1.0\n")
        with pytest.raises(ValueError, match=re.escape("\n".join(problems))):
            join_fragments(tmp_path)
        assert (tmp_path / "changes" / name).exists()
        assert (tmp_path / "CHANGELOG.md").read_text() == "# Changes\n\n## 9.1.0\n"


def test_fragments_are_joined_below_the_headings_of_the_first_version(tmp_path: Path) -> None:
    page = tmp_path / "CHANGELOG.md"
    page.write_text(
        "# Changes\n\nWhat changes.\n\n## 9.1.0, not yet released\n\nThe new one.\n\n### Routing\n\n- Routes.\n\n"
        "### Security\n\n- Keys.\n\n## 9.0.0, 2026-12-01\n\n### Routing\n\n- Old routes.\n"
    )
    write_fragment(tmp_path, "routing/b.md", "- Second.\n- Third.\n")
    write_fragment(tmp_path, "routing/a.md", "- First.")
    write_fragment(tmp_path, "ledger/a.md", "- A sum.\n")
    join_fragments(tmp_path)
    assert page.read_text() == (
        "# Changes\n\nWhat changes.\n\n## 9.1.0, not yet released\n\nThe new one.\n\n"
        "### Routing\n\n- Routes.\n- First.\n- Second.\n- Third.\n\n### Usage ledger and costs\n\n- A sum.\n\n"
        "### Security\n\n- Keys.\n\n## 9.0.0, 2026-12-01\n\n### Routing\n\n- Old routes.\n"
    )
    assert list_fragments(tmp_path) == []
    join_fragments(tmp_path)
    assert page.read_text().count("- First.") == 1


def test_the_change_log_is_joined_without_a_change_of_its_own(tmp_path: Path) -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    (tmp_path / "CHANGELOG.md").write_text(text, "utf-8")
    join_fragments(tmp_path)
    assert (tmp_path / "CHANGELOG.md").read_text("utf-8") == text


def test_the_formula_installs_the_locked_packages() -> None:
    formula = write_formula("9.1.0", URL, DIGEST)
    assert f'  url "{URL}"\n  version "9.1.0"\n  sha256 "{DIGEST}"\n  license "MIT"\n' in formula
    installs = re.findall(r"\*install, (.*)", formula)
    assert installs
    assert all('"--require-hashes", "--no-deps"' in line or "--no-index" in line for line in installs)
    assert "$" not in formula
    if ruby := shutil.which("ruby"):
        subprocess.run([ruby, "-c"], input=formula, text=True, check=True, capture_output=True)


def test_the_winget_manifest_has_the_required_fields() -> None:
    files = write_winget_manifest("9.1.0", "https://example.com/a.zip", DIGEST, "2026-12-01")
    documents = {name: yaml.safe_load(text) for name, text in files.items()}
    assert list(documents) == [
        "AnthropicProxy.AnthropicProxy.yaml",
        "AnthropicProxy.AnthropicProxy.installer.yaml",
        "AnthropicProxy.AnthropicProxy.locale.en-US.yaml",
    ]
    version, installer, locale = documents.values()
    assert [document["ManifestType"] for document in documents.values()] == ["version", "installer", "defaultLocale"]
    assert {(document["PackageIdentifier"], document["PackageVersion"]) for document in documents.values()} == {
        ("AnthropicProxy.AnthropicProxy", "9.1.0")
    }
    assert version["DefaultLocale"] == locale["PackageLocale"] == "en-US"
    assert installer["Installers"] == [
        {"Architecture": "x64", "InstallerUrl": "https://example.com/a.zip", "InstallerSha256": "AB" * 32}
    ]
    assert len(locale["ShortDescription"]) <= 256
    assert {"Publisher", "PackageName", "License"} <= {*locale}


def test_the_release_switches_the_installation_texts() -> None:
    name = "anthropic-proxy"
    commands = [command for command, _ in list_start_commands(is_published=True)]
    assert commands[:2] == [f"uvx {name}", f"uv tool install {name}"]
