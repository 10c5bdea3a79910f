"""Fidelity report: request and reply fields that the proxy approximated, emulated or dropped."""

from collections.abc import Collection
from typing import Literal

from msgspec import Struct, field

Handling = Literal["kept", "approximated", "emulated", "dropped"]
"""Treatment of a field by the proxy. `FidelityNote.handling` defines the values."""
Fidelity = Literal["best-effort", "strict"]
"""Fidelity mode of a request: reject losses (`strict`), or accept and report them (`best-effort`)."""


class FidelityNote(Struct, frozen=True):
    """Handling of one field.

    >>> FidelityNote("approximated", "max_tokens", "64000 → 32768, the model's limit")

    A note of a wire that is identical for every request is a constant of its module.
    """

    handling: Handling
    """`kept`: unchanged, against expectation. `approximated`: replaced by a similar value. `emulated`: done by the
    proxy, because the backend cannot. `dropped`: lost; the answer may change, so mode `strict` rejects it."""
    field: str
    """Path in the request: `top_k`, `tools.calc`, `messages.image`. In messages the block type replaces the index,
    because preparation changes indexes."""
    reason: str
    """Text for the log and the user, such as `64000 → 32768, the model's limit`."""


class FidelityReport(Struct):
    """Distinct fidelity notes of one client request. They describe its last upstream attempt."""

    mode: Fidelity = "best-effort"
    approximated: int = 0
    """Number of notes with the handling `approximated`."""
    emulated: int = 0
    """Number of notes with the handling `emulated`."""
    dropped: int = 0
    """Number of notes with the handling `dropped`."""
    notes: list[FidelityNote] = field(default_factory=list)
    """Notes in the order of their discovery."""

    def reset(self) -> None:
        """Remove the notes of the previous attempt, before the next one."""
        self.notes.clear()
        self.approximated = self.emulated = self.dropped = 0

    def add(self, notes: Collection[FidelityNote], *, again: bool = False) -> None:
        """Add notes, except duplicates.

        `again`: notes of a later upstream call of the same reply. They are added only for fields without a note.
        """
        if not notes:
            return
        noted = {note.field for note in self.notes} if again else ()
        known = set(self.notes)
        for note in dict.fromkeys(notes):
            if note in known or note.field in noted:
                continue
            self.notes.append(note)
            self.approximated += note.handling == "approximated"
            self.emulated += note.handling == "emulated"
            self.dropped += note.handling == "dropped"

    def lossy_notes(self) -> list[FidelityNote]:
        """Return the notes that mode `strict` rejects, in order. In another mode: none."""
        return [note for note in self.notes if note.handling == "dropped"] if self.mode == "strict" else []

    def describe(self) -> str:
        """Return the mode and the counts in one line.

        >>> FidelityReport(emulated=1).describe()
        'best-effort; approximated=0; emulated=1; dropped=0'
        """
        counts = f"approximated={self.approximated}; emulated={self.emulated}; dropped={self.dropped}"
        return f"{self.mode}; {counts}"
