"""Fragments of the change log: `changes/SECTION/NAME.md` with lines `- text`, joined into CHANGELOG.md for a release.

A change adds a file of its own, so that two changes never edit the same lines.
"""

import re
from pathlib import Path

from tests.support.paths import ROOT

SECTIONS = {
    "messages-api": "Messages API",
    "providers": "Providers and clouds",
    "routing": "Routing",
    "reliability": "Reliability",
    "prompt-caches": "Prompt caches",
    "commands": "Commands",
    "clients": "Claude Code and other clients",
    "ledger": "Usage ledger and costs",
    "dashboard": "Dashboard",
    "keys": "Keys and budgets",
    "operations": "Operations",
    "security": "Security",
    "docs": "Documentation and plugins",
}
"""Folder of `changes/` → heading in CHANGELOG.md, in the order of the headings."""
MAX_WORDS = 25


def list_fragments(checkout: Path = ROOT) -> list[Path]:
    """Return the files of `changes/`, of which CHANGELOG.md has none."""
    return sorted(path for path in (checkout / "changes").rglob("*") if path.is_file())


def find_fragment_problems(checkout: Path = ROOT) -> list[str]:
    """Return what is wrong with the fragments, each with the file, the line and the remedy."""
    return [problem for path in list_fragments(checkout) for problem in _examine(path, checkout)]


def _examine(path: Path, checkout: Path) -> list[str]:
    name = path.relative_to(checkout).as_posix()
    if path.suffix != ".md" or path.parent.parent != checkout / "changes" or path.parent.name not in SECTIONS:
        return [f"{name} is no fragment. Name it changes/SECTION/NAME.md; sections are {', '.join(SECTIONS)}."]
    lines = path.read_text("utf-8").splitlines()
    problems = [] if lines else [f"{name} is empty."]
    for number, line in enumerate(lines, 1):
        text = line.removeprefix("- ")
        if text == line or not text.strip():
            problems.append(f'{name}, line {number} is no entry. Write one entry on each line: "- text".')
        elif (count := len(text.split())) > MAX_WORDS:
            problems.append(f"{name}, line {number} has {count} words; at most {MAX_WORDS} are allowed.")
    return problems


def join_fragments(checkout: Path = ROOT) -> None:
    """Add the fragments to the first version of CHANGELOG.md, below the headings of their sections, and remove them.

    Raises ValueError with all problems of the fragments, and then changes nothing.
    """
    if problems := find_fragment_problems(checkout):
        raise ValueError("\n".join(problems))
    fragments = list_fragments(checkout)
    page = checkout / "CHANGELOG.md"
    start, version, older = _divide(page.read_text("utf-8"))
    introduction, *parts = re.split(r"^### ", version, flags=re.MULTILINE)
    entries = {heading: text.strip() for heading, _, text in (part.partition("\n") for part in parts)}
    for path in fragments:
        heading = SECTIONS[path.parent.name]
        entries[heading] = f"{entries.get(heading, '')}\n{path.read_text('utf-8')}".strip()
    order = [*SECTIONS.values(), *entries]
    written = "\n\n".join(
        f"### {heading}\n\n{entries[heading]}" for heading in dict.fromkeys(order) if heading in entries
    )
    page.write_text(f"{start}{introduction.rstrip()}\n\n{written}\n{older and chr(10)}{older}", "utf-8")
    for path in fragments:
        path.unlink()


def _divide(text: str) -> tuple[str, str, str]:
    """Divide CHANGELOG.md into what precedes its first version, that version, and the older ones."""
    versions = [match.start() for match in re.finditer(r"^## ", text, re.MULTILINE)]
    first, second = (*versions, len(text))[:2]
    return text[:first], text[first:second], text[second:]
