"""Which golden scenario proves a cell: it uses the feature, and the same becomes of it there."""

import functools
import re

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.errors import ClientError
from tests.matrix.backends import Backend
from tests.matrix.cells import Cell, Feature, cell_of, concerns, wire_name, worst_of
from tests.support.golden_runner import GoldenCase, find_cases, read_message
from tests.support.paths import GOLDEN

RELAY = "anthropic/text/unknown_fields"
"""Proves every cell of a backend to which bytes pass unchanged: no field is known there, and none is touched."""


class Proof(Struct, frozen=True, eq=False):
    """A scenario that proves features. Equal only to itself."""

    name: str
    """Folder below `tests/golden`: `openai_chat/text/sampling`."""
    scenario: GoldenCase

    @functools.cache  # noqa: B019  # its instances last as long as the process
    def cell_of(self, feature: Feature) -> Cell | None:
        """Return the treatment of the feature in this scenario. None: the scenario does not contain it."""
        if feature.is_of_replies:
            return Cell("native") if all(re.search(text, self._received()) for text in feature.shows) else None
        if not all(re.search(text, self._posted()) for text in feature.uses):
            return None
        try:
            before = self.scenario.common_notes()
        except ClientError:
            return Cell("refused", shared=True)
        try:
            notes = self.scenario.target.wire.encode_request(self.scenario.call()).notes
        except ClientError:
            return Cell("refused")
        common = worst_of(note for note in before if concerns(note, feature.notes))
        ours = [note for note in (*before, *notes) if concerns(note, feature.notes)]
        fate = worst_of(ours)
        return Cell(fate, tuple(note.reason for note in ours), shared=fate != "native" and fate == common)

    @functools.cache  # noqa: B019  # its instances last as long as the process
    def _posted(self) -> str:
        return _compact(self.scenario.posted)

    @functools.cache  # noqa: B019  # its instances last as long as the process
    def _received(self) -> str:
        folder = self.scenario.folder
        received = [folder / f"expected_{name}" for name in ("events.sse", "error.json")]
        texts = [path.read_bytes() for path in received if path.exists()]
        is_relayed = wire_name(self.scenario.target) == "anthropic"
        if (folder / "expected_message.json").exists() or not ((folder / "expected_error.json").exists() or is_relayed):
            texts.append(msgspec.json.encode(read_message(folder)))
        return "\n".join(map(_compact, texts))


def _compact(text: bytes) -> str:
    try:
        return msgspec.json.format(text, indent=-1).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return text.decode(errors="replace")


@functools.cache
def load_proofs() -> dict[str, tuple[Proof, ...]]:
    """Return the scenarios by the features that they prove."""
    found: dict[str, list[Proof]] = {}
    for path in [folder / "case.toml" for folder in find_cases()]:
        if "\nproves = [" not in path.read_text("utf-8"):
            continue
        proof = Proof(str(path.parent.relative_to(GOLDEN)), GoldenCase(path.parent))
        for name in proof.scenario.fields["proves"]:
            found.setdefault(name, []).append(proof)
    return {name: tuple(proofs) for name, proofs in found.items()}


def proof_of(feature: Feature, backend: Backend, cell: Cell) -> str:
    """Return the scenario, or the named test, that proves a cell; empty: nothing does, as nothing need prove a hint.

    One of the same server if there is one, else one of the same language, as the cell is its mechanism, with the same
    reason if there is such a one; where the steps before any language decide, one of any language. A named test is
    taken before a scenario in which the same happens for another reason.
    """
    target = backend.target()
    if wire_name(target) == "anthropic" and not feature.is_of_replies:
        return feature.tests.get(cell.fate, RELAY)
    proofs = [proof for proof in load_proofs().get(feature.name, ()) if _proves(proof, feature, target, cell)]
    if not proofs:
        return feature.tests.get(cell.fate, "")
    nearest = min(proofs, key=lambda proof: _distance(proof, feature, target, cell))
    named = feature.tests.get(cell.fate)
    return named if named and _differs_in_reason(nearest, feature, cell) else nearest.name


def _distance(proof: Proof, feature: Feature, target: Target, cell: Cell) -> tuple[bool, ...]:
    """Return how far a proof is from a cell: by language, by reason, by server."""
    at = proof.scenario.target
    others = _differs_in_reason(proof, feature, cell)
    return wire_name(at) != wire_name(target), others, place_of(at) != place_of(target)


def _differs_in_reason(proof: Proof, feature: Feature, cell: Cell) -> bool:
    there = proof.cell_of(feature)
    if there is None:
        return True
    return bool(cell.reasons or there.reasons) and set(cell.reasons).isdisjoint(there.reasons)


def _proves(proof: Proof, feature: Feature, target: Target, cell: Cell) -> bool:
    there = proof.cell_of(feature)
    if there is None or there.fate != cell.fate:
        return False
    return wire_name(proof.scenario.target) == wire_name(target) or (cell.shared and there.shared)


def place_of(target: Target) -> tuple[str, str]:
    """Return provider and host, which identify the server."""
    return target.provider.name, target.base_url.partition("//")[2].partition("/")[0]


def find_cell(feature: Feature, backend: Backend) -> Cell | None:
    """Return a cell; of a feature of replies None where no scenario of the backend's language shows it."""
    if not feature.is_of_replies:
        return cell_of(feature, backend)
    return Cell("native") if proof_of(feature, backend, Cell("native")) else None
