"""The generated part of docs/guide/matrix.md."""

import re
from collections.abc import Iterator

from anthropic_proxy.engine.routing.targets import Target
from tests.matrix.backends import BACKENDS, Backend
from tests.matrix.cells import Cell, Fate, Feature, Group, load_groups
from tests.matrix.proofs import find_cell, proof_of
from tests.matrix.sources import is_sourced
from tests.support.paths import ROOT

PAGE = ROOT / "docs/guide/matrix.md"
BEGIN = "<!-- scripts/ci.py matrix --write writes what follows -->"
END = "<!-- until here -->"

MARKS: dict[Fate, str] = {
    "native": "✓",
    "hint": "·",
    "emulated": "E",
    "approximated": "~",
    "dropped": "✗",
    "refused": "R",
}
NOTHING = "–"
UNKNOWN = "?"
"""Follows a mark if its claim about the backend has no source."""
_LEGEND = """\
| mark | meaning |
| --- | --- |
| ✓ | sent in the provider's own form, which it accepts; of replies: returned in Anthropic's form |
| ✓? | sent in that form; no source shows whether the provider accepts it |
| E | emulated: the proxy does it, or a text asks for it |
| ~ | approximated: the provider gets a similar value |
| ✗ | not supported by the provider: dropped, with a fidelity note; `FIDELITY=strict` rejects such a request |
| ✗? | not sent by the proxy: dropped, noted and rejected as above; no source shows whether the provider supports it |
| R | rejected with a 400 that contains the reason, because without it the request would have another meaning |
| · | a hint that is not sent; nothing is lost |
| – | not known from any provider with this API |"""


def written_page() -> str:
    """Return docs/guide/matrix.md with the matrix as the code is now."""
    page = PAGE.read_text("utf-8")
    before, _, remainder = page.partition(BEGIN)
    _, _, after = remainder.partition(END)
    return f"{before}{BEGIN}\n\n{matrix()}\n\n{END}{after}"


def matrix() -> str:
    """Return the tables with their legend, and the places that their cells link to."""
    proofs: set[str] = set()
    tables = "\n\n".join(_table(group, proofs) for group in load_groups())
    links = "\n".join(f"[{name}]: {_address(name)}" for name in sorted(proofs))
    models = ", ".join(f"{backend.title} `{backend.target().model}`" for backend in BACKENDS)
    return f"{_LEGEND}\n\nEach mark leads to its proof. The models: {models}.\n\n{tables}\n\n{links}"


def _table(group: Group, proofs: set[str]) -> str:
    notes: list[str] = []
    rows = ["".join(_row(feature, notes, proofs)) for feature in group.feature]
    head = "".join(f" {backend.title} |" for backend in BACKENDS)
    table = [f"## {group.title}", "", f"| |{head}", "| --- |" + " :-: |" * len(BACKENDS), *rows]
    listed = [f"{number}. {_sentence(note)}" for number, note in enumerate(notes, 1)]
    return "\n".join([*table, *([""] if listed else []), *listed])


def _row(feature: Feature, notes: list[str], proofs: set[str]) -> Iterator[str]:
    yield f"| {feature.title} |"
    for backend in BACKENDS:
        cell = find_cell(feature, backend)
        yield f" {NOTHING if cell is None else _marked(cell, feature, backend, notes, proofs)} |"


def _marked(cell: Cell, feature: Feature, backend: Backend, notes: list[str], proofs: set[str]) -> str:
    numbers = []
    for reason in cell.reasons:
        text = _general(reason, backend.target())
        if text not in notes:
            notes.append(text)
        numbers.append(str(notes.index(text) + 1))
    mark = MARKS[cell.fate] + ("" if is_sourced(feature, backend, cell) else UNKNOWN)
    if proof := proof_of(feature, backend, cell):
        proofs.add(proof)
        mark = f"[{mark}][{proof}]"
    return f"{mark}<sup>{','.join(numbers)}</sup>" if numbers else mark


def _general(reason: str, target: Target) -> str:
    """Return a reason without the differences between backends of equal behavior."""
    reason = re.sub(r"\d{4,} → \d+", "lowered", reason)
    for name in {target.provider.prefix, target.model}:
        reason = re.sub(rf"(?<!/)\b{re.escape(name)}\b", "the backend", reason)
    return reason


def _sentence(note: str) -> str:
    note = note.replace("<", "&lt;").replace("|", "&#124;")
    begins_with_word = note.partition(" ")[0].isalpha() and "→" not in note
    return (note[0].upper() if begins_with_word else note[0]) + note[1:].rstrip(".") + "."


def _address(proof: str) -> str:
    if proof.startswith("tests/"):
        return f"../../{proof.partition('::')[0]}"
    return f"../../tests/golden/{proof}"
