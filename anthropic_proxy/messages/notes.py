"""The fidelity report: what reaches the backend, or comes back, otherwise than the client asked."""

from collections.abc import Collection
from typing import Literal

from msgspec import Struct, field

Fate = Literal["kept", "approximated", "emulated", "dropped"]
Fidelity = Literal["best-effort", "strict"]


class Note(Struct, frozen=True):
    """What became of one field.

    >>> Note("approximated", "max_tokens", "64000 → 32768, the model's limit")

    A wire's note that is the same for every request is a constant of its module.
    """

    fate: Fate
    """`kept`: all of it, where a reader would doubt that. `approximated`: something near it; the answer is one to the
    same question. `emulated`: the backend has no such thing, so the proxy does it. `dropped`: lost, and the answer may
    be another for it; the policy `strict` refuses that."""
    field: str
    """Path in the request: `top_k`, `tools.calc`, `messages.image`. Of messages it names the kind of block: their
    places change when they are prepared."""
    reason: str


class Report(Struct):
    """The notes of one request; they come together here and nowhere else.

    Each stands here once, and only those of the attempt that counts: what an abandoned one had noted is forgotten.
    """

    policy: Fidelity = "best-effort"
    approximated: int = 0
    emulated: int = 0
    dropped: int = 0
    notes: list[Note] = field(default_factory=list)

    def begin(self) -> None:
        """Forget the notes of the attempt before."""
        self.notes.clear()
        self.approximated = self.emulated = self.dropped = 0

    def add(self, notes: Collection[Note], *, again: bool = False) -> None:
        """Take notes; one that is here already says nothing new.

        `again`: they are of a later call of the same reply, which changes a field once more that has its note.
        """
        if not notes:
            return
        noted = {note.field for note in self.notes} if again else ()
        for note in notes:
            if note in self.notes or note.field in noted:
                continue
            self.notes.append(note)
            if note.fate != "kept":
                setattr(self, note.fate, getattr(self, note.fate) + 1)

    def losses(self) -> list[Note]:
        """Return what the policy `strict` refuses, in order; nothing under another policy."""
        return [note for note in self.notes if note.fate == "dropped"] if self.policy == "strict" else []

    def describe(self) -> str:
        """Return the policy and the counts in one line.

        >>> Report(emulated=1).describe()
        'best-effort; approximated=0; emulated=1; dropped=0'
        """
        counts = f"approximated={self.approximated}; emulated={self.emulated}; dropped={self.dropped}"
        return f"{self.policy}; {counts}"
