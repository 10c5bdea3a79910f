"""Fields of a client request that are changed before it is sent to a provider, for the command `explain`.

`list_changes` returns a `Change` for each of them, with its effect and reason. `list_unchanged_fields` returns the
other fields.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from anthropic_proxy.cli.request_fields import list_fields
from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.preparation.fidelity_notes import TASK_BUDGET
from anthropic_proxy.messages.preparation.prepare import NO_KNOWN_EFFORTS
from anthropic_proxy.wire.shared_notes import FOREIGN_THINKING_DROPPED, NO_EFFORT, NO_SERVICE_TIER

MAX_VALUE_CHARACTERS = 20
"""Maximum length of a field value in the output. A longer value is omitted."""
_ARROW = re.compile(r"(?P<before>\S+) → (?P<after>[^\s,;]+)(?:[,;] (?P<reason>.+))?")
_NUMBER = re.compile(r"\d{4,}")
_UNSENT_NOTES = {
    FOREIGN_THINKING_DROPPED: "this backend did not produce it, or does not accept it",
    NO_EFFORT: NO_EFFORT.reason,
    NO_SERVICE_TIER: NO_SERVICE_TIER.reason.removeprefix("not sent; "),
    **{
        FidelityNote("approximated", field, NO_KNOWN_EFFORTS): NO_KNOWN_EFFORTS.removesuffix(", so none is sent")
        for field in ("thinking", "output_config.effort")
    },
    TASK_BUDGET: "the provider is not known to have it",
}
"""Fidelity note → reason for the user. These notes have the handling `approximated`, but their field is not sent to the
provider."""


class Change(Struct, frozen=True):
    """Change of one field of the client request, or a note about a field that is kept.

    A changed field is sent with another value, not sent, or emulated by the proxy.
    """

    field: str
    """Path of the field: `max_tokens`, `tools.NAME`. In messages the block type replaces the index."""
    handling: str
    """Handling of the field: kept, approximated, emulated or dropped, as in `FidelityNote`. `dropped`: the field is not
    sent."""
    before: str
    """Value in the client request as text. "": too long to be shown."""
    after: str
    """Value sent to the provider as text. "": the value is too long to be shown, or the field is not sent."""
    reason: str
    """Reason for the change, as a text for the user."""

    @property
    def effect(self) -> str:
        """Effect of the change as text: `64,000 → 32,000`, `40 → not sent`, `6, emulated by the proxy`."""
        if self.after:
            return f"{self.before} → {self.after}"
        if self.handling == "dropped":
            return f"{self.before} → not sent" if self.before else "not sent"
        effect = "emulated by the proxy" if self.handling == "emulated" else self.handling
        return f"{self.before}, {effect}" if self.before else effect


def list_changes(
    body: Mapping[str, Any],
    notes: Sequence[FidelityNote],
    renamed_tools: Mapping[str, str],
    unnoted: Sequence[FidelityNote] = (),
) -> list[Change]:
    """Return the changes that the proxy makes to the client request `body`, with their reasons.

    `notes` are the changes that the translation has recorded. `unnoted` are further changes, found by a comparison with
    the upstream request. `renamed_tools` maps the name of a tool to its name in the upstream request.
    """
    changes = [_describe_note(note, body) for note in [*notes, *_without_noted(unnoted, notes)]]
    for name, alias in renamed_tools.items():
        effect = (name, alias) if len(name) == len(alias) else (f"{len(name)}", f"{len(alias)} characters")
        changes.append(Change(f"tools.{name}.name", "approximated", *effect, "the original name is in the reply"))
    return changes


def list_unchanged_fields(body: Mapping[str, Any], changes: Sequence[Change]) -> list[str]:
    """Return the fields of the client request `body` that are sent unchanged, such as `messages.text` or `tools.NAME`.

    `changes` is the result of `list_changes`. The field `model` is left out.
    """
    fields = list(list_fields(body))
    changed = {field for change in changes if change.handling != "kept" for field in _affected(change.field, fields)}
    return [field for field in fields if field not in changed]


def _affected(path: str, fields: Sequence[str]) -> Sequence[str]:
    """Return those of `fields` that are the field `path`, contain it, or are a part of it.

    If the path is a property of all tools, all tools are returned.
    """
    found = [field for field in fields if f"{path}.".startswith(f"{field}.") or f"{field}.".startswith(f"{path}.")]
    if not found and path.startswith("tools."):
        return [field for field in fields if field.startswith("tools.")]
    return found


def _without_noted(found: Sequence[FidelityNote], notes: Sequence[FidelityNote]) -> list[FidelityNote]:
    """Return the changes of `found` for fields without a note. A note on a field covers its parts."""
    return [row for row in found if not any(f"{row.field}.".startswith(f"{note.field}.") for note in notes)]


def _describe_note(note: FidelityNote, body: Mapping[str, Any]) -> Change:
    if note in _UNSENT_NOTES:
        return Change(note.field, "dropped", _find_value(note.field, body), "", _UNSENT_NOTES[note])
    if found := _ARROW.fullmatch(note.reason):
        before, after = (_NUMBER.sub(lambda digits: f"{int(digits[0]):,}", found[name]) for name in ("before", "after"))
        return Change(note.field, note.handling, before, after, found["reason"] or "")
    reason = note.reason.removeprefix("not sent; ") if note.handling == "dropped" else note.reason
    return Change(note.field, note.handling, _find_value(note.field, body), "", reason)


def _find_value(path: str, body: Mapping[str, Any]) -> str:
    value: Any = body
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    text = str(len(value)) if isinstance(value, list) else "" if isinstance(value, dict) else str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else ""
