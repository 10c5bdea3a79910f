"""Fidelity report of a client request: the fields that the proxy approximated, emulated or dropped.

A dropped field is a loss: the mode `strict` rejects the request because of it, the mode `best-effort` serves it.
"""

from collections.abc import Callable, Collection
from operator import attrgetter
from typing import Literal

from msgspec import Struct, field, structs

Handling = Literal["kept", "approximated", "emulated", "dropped"]
Fidelity = Literal["best-effort", "strict"]

TOOL_CALL_FIELDS = ("content.tool_use.name", "content.tool_use.input")
"""Values of `FidelityNote.field` for malformed tool calls of a reply. The call has an unknown name, or arguments that
are no JSON object."""


class FidelityNote(Struct, frozen=True, omit_defaults=True):
    """Record of the handling of one field of a request or reply by the proxy, with the reason.

    >>> FidelityNote("dropped", "top_k", "not sent; no setting for it is known")
    >>> note_replacement("max_tokens", 64000, 32768, ", the model's limit")
    """

    handling: Handling
    """`kept`: unchanged, although a change was expected. `approximated`: replaced by a similar value. `emulated`: done
    by the proxy, because the backend cannot. `dropped`: lost, which may change the answer; the mode `strict` rejects
    the request."""
    field: str
    """Path in the request: `top_k`, `tools.calc`, `messages.image`. In messages the block type replaces the index,
    because preparation changes indexes."""
    reason: str
    """Text for the log and the user, such as `64000 → 32768, the model's limit`."""
    before: str = ""
    """Value of the client that was replaced. "": none was."""
    after: str = ""
    """Value that replaces it."""

    @property
    def explanation(self) -> str:
        """The reason without both values: `the model's limit`."""
        return self.reason.removeprefix(f"{self.before} → {self.after}").lstrip(",; ")


NoteCheck = Callable[[Collection[FidelityNote]], None]
"""Function that raises `UnsupportedFeature` if the notes on a request contain a loss that its fidelity mode rejects."""


def note_replacement(
    field: str, before: object, after: object, reason: str, handling: Handling = "approximated"
) -> FidelityNote:
    """`reason`: what follows the values, with its comma or semicolon: `, the model's limit`."""
    old, new = str(before), str(after)
    return FidelityNote(handling, field, f"{old} → {new}{reason}", old, new)


_MAX_TEXT = 500
"""Maximum number of characters of each text of a stored note: names of the client have any length."""
MAX_NOTES = 200
"""Maximum number of stored notes of a request, which has any number of fields. Further ones are counted."""
_TEXTS = ("field", "reason", "before", "after")
_read_texts = attrgetter(*_TEXTS)


def _shorten(note: FidelityNote) -> FidelityNote:
    texts = _read_texts(note)
    if max(map(len, texts)) <= _MAX_TEXT:
        return note
    cut = (text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…" for text in texts)
    return structs.replace(note, **dict(zip(_TEXTS, cut, strict=True)))


class FidelityReport(Struct):
    """Fidelity notes of one client request, without duplicates."""

    mode: Fidelity = "best-effort"
    """Fidelity mode of the request: `strict` rejects losses, `best-effort` accepts them."""
    approximated: int = 0
    """Number of notes with the handling `approximated`."""
    emulated: int = 0
    """Number of notes on fields that the proxy emulated."""
    dropped: int = 0
    """Number of notes on fields that were not sent or not returned."""
    notes: list[FidelityNote] = field(default_factory=list)
    """Notes of one client request, in the order in which the proxy added them."""

    def clear_notes(self) -> None:
        """Remove all notes before a retry, so that they do not describe failed upstream calls."""
        self.notes.clear()
        self.approximated = self.emulated = self.dropped = 0

    def add_notes(self, notes: Collection[FidelityNote], *, skip_noted_fields: bool = False) -> None:
        """Add notes to this report, except notes that it already contains.

        If `skip_noted_fields` is True, notes on fields that already have a note are skipped too.
        """
        if not notes:
            return
        # a later upstream call of the same reply repeats the fields of the first call
        noted = {note.field for note in self.notes} if skip_noted_fields else ()
        known = set(self.notes)
        for note in dict.fromkeys(map(_shorten, notes)):
            if note in known or note.field in noted:
                continue
            if len(self.notes) < MAX_NOTES or (note.handling == "dropped" and not self.dropped):
                self.notes.append(note)
            self.approximated += note.handling == "approximated"
            self.emulated += note.handling == "emulated"
            self.dropped += note.handling == "dropped"

    def list_rejected_losses(self) -> list[FidelityNote]:
        return [note for note in self.notes if note.handling == "dropped"] if self.mode == "strict" else []

    def format_counts(self) -> str:
        """Return one line with the mode and the numbers of notes on approximated, emulated and dropped fields.

        >>> FidelityReport(emulated=1).format_counts()
        'best-effort; approximated=0; emulated=1; dropped=0'
        """
        counts = f"approximated={self.approximated}; emulated={self.emulated}; dropped={self.dropped}"
        return f"{self.mode}; {counts}"
