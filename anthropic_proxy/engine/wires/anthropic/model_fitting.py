"""Edits that fit a request to a model that a setting chose in place of the client's: fields that it does not accept.

The rules are those for providers with another API: the output limit and the effort levels of the model, the nearest
form of thinking, and a text in place of a prefill. A request that the model accepts stays as it is.

Example. Claude Code asks for `claude-opus-4-8`, and `BIG_MODEL` chooses `claude-haiku-4-5`, which has no effort levels,
writes at most 64,000 tokens, and thinks with a number of tokens. The first line becomes the second one:

    "max_tokens": 128000, "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}
    "max_tokens": 64000, "thinking": {"type": "enabled", "budget_tokens": 32000}
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.efforts import REASONING_EFFORTS, nearest_effort
from anthropic_proxy.engine.messages.fidelity import FidelityNote, note_replacement
from anthropic_proxy.engine.messages.preparation import DEFAULT_MAX_TOKENS, THINKING_BUDGETS
from anthropic_proxy.engine.messages.server_tools import CALL_TYPES
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.conversation import find_disabling_edits
from anthropic_proxy.engine.wires.anthropic.dialect import Dialect
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan
from anthropic_proxy.engine.wires.calls import ModelLimits, RelayCall
from anthropic_proxy.engine.wires.message_encoder import CONTINUE_TEXT
from anthropic_proxy.engine.wires.shared_notes import NO_EFFORT, NO_SAMPLING, PREFILL_AS_TEXT, renamed_effort_note

_MIN_BUDGET = 1_024
"""Minimum `budget_tokens` (the API reference, "Extended thinking"). With less room, the request does not think."""
_DEFAULT_EFFORT = "medium"
_DEFAULT_DISPLAY = "summarized"
"""`thinking.display` of models with budgets; models without them show no thinking by default
(anthropics/claude-code issue 49268; docker/docker-agent pull request 2451)."""
_BUDGET_OF_EFFORT = {effort: budget for budget, effort in THINKING_BUDGETS}
_MOST_TOKENS = max(_BUDGET_OF_EFFORT.values())
_LOSES_THINKING = FidelityNote("approximated", "thinking", "the model does not think, or has no room for a budget")
_LOSES_BUDGET = FidelityNote("approximated", "thinking.budget_tokens", "the model decides how much to think")
_ASK_TO_CONTINUE = b'{"role":"user","content":%b}' % bytes(CONTINUE_TEXT)


class _Fields(Struct):
    max_tokens: int | float | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None


class _Message(Struct):
    role: str = ""
    content: Any = None


_decode_fields, _decode_message = msgspec.json.Decoder(_Fields).decode, msgspec.json.Decoder(_Message).decode


class _Fit(Struct):
    """The edits of one body for a model."""

    body: bytes
    members: Sequence[JsonSpan]
    places: Mapping[str, int]
    """Field → its index in `members`."""
    kept: list[bool]
    dialect: Dialect
    limits: ModelLimits
    notes: list[FidelityNote]
    edits: list[Edit] = []

    def replace(self, field: str, value: Any) -> None:
        """None: the field is removed."""
        place = self.places[field]
        if value is None:
            self.kept[place] = False
        else:
            self.edits.append(Edit(self.members[place].value, self.members[place].end, msgspec.json.encode(value)))

    def fit_output_limit(self, requested: int | None, thinking: Mapping[str, Any]) -> int | None:
        """Return the output limit that is sent. None: the client sends none."""
        most = self.limits.max_output
        if requested is None or most is None or requested <= most:
            return requested
        self.replace("max_tokens", most)
        self.notes.append(note_replacement("max_tokens", requested, most, ", the model's limit"))
        budget = thinking.get("budget_tokens")
        is_budget = thinking.get("type") == "enabled" and "enabled" in self.dialect.thinking_forms
        if is_budget and isinstance(budget, int) and budget >= most:
            self.replace("thinking", {**thinking, "budget_tokens": most - 1})
            self.notes.append(note_replacement("thinking.budget_tokens", budget, most - 1, ", less than max_tokens"))
        return most

    def fit_effort(self, config: Mapping[str, Any]) -> None:
        effort, efforts = config.get("effort"), self.limits.efforts
        if not isinstance(effort, str) or effort in efforts or (efforts and effort not in REASONING_EFFORTS):
            return
        fitted = nearest_effort(effort, efforts) if efforts else ""
        self.notes.append(renamed_effort_note(effort, fitted) if fitted else NO_EFFORT)
        others = {name: value for name, value in config.items() if name != "effort"}
        self.replace("output_config", (others | {"effort": fitted} if fitted else others) or None)

    def fit_thinking(self, thinking: dict[str, Any], effort: object, most: int | None) -> None:
        forms = self.dialect.thinking_forms
        if (form := thinking.get("type")) in forms or form not in ("adaptive", "enabled"):
            return
        if "adaptive" in forms:
            self.notes.append(_LOSES_BUDGET)
            self.replace("thinking", {"type": "adaptive", "display": thinking.get("display", _DEFAULT_DISPLAY)})
            return
        wanted = _BUDGET_OF_EFFORT[_DEFAULT_EFFORT]
        if effort in REASONING_EFFORTS:
            wanted = _BUDGET_OF_EFFORT.get(effort, _MOST_TOKENS)
        budget = min(wanted, (most or self.limits.max_output or DEFAULT_MAX_TOKENS) // 2) if "enabled" in forms else 0
        if budget >= _MIN_BUDGET:
            self.notes.append(
                note_replacement("thinking", "adaptive", f"{budget} tokens", ", the form that the model has")
            )
            display = {"display": thinking["display"]} if "display" in thinking else {}
            self.replace("thinking", {"type": "enabled", "budget_tokens": budget, **display})
            return
        self.notes.append(_LOSES_THINKING)
        self.replace("thinking", None)
        if "context_management" in self.places:
            place = self.places["context_management"]
            disabling = find_disabling_edits(self.body, self.members[place])
            self.kept[place] = disabling is not None
            self.edits += disabling or ()

    def fit_sampling(self) -> None:
        for name, note in NO_SAMPLING.items() if not self.dialect.accepts_sampling else ():
            if name in self.places:
                self.replace(name, None)
                self.notes.append(note)

    def fit_prefill(self) -> None:
        if self.dialect.accepts_prefill or "messages" not in self.places:
            return
        member = self.members[self.places["messages"]]
        is_list = self.body[member.value] == ord("[")
        messages = json_spans.find_elements(self.body, member.value, member.end) if is_list else []
        with suppress(msgspec.ValidationError):
            last = _decode_message(self.body[messages[-1].start : messages[-1].end]) if messages else _Message()
            blocks = last.content if isinstance(last.content, list) else []
            calls = any(isinstance(block, dict) and block.get("type") in CALL_TYPES for block in blocks)
            if last.role == "assistant" and not calls:  # a text that the model is to continue
                self.edits.append(Edit(messages[-1].end, messages[-1].end, b"," + _ASK_TO_CONTINUE))
                self.notes.append(PREFILL_AS_TEXT)


def find_fitting_edits(body: bytes, call: RelayCall[Dialect], notes: list[FidelityNote]) -> list[Edit]:
    """Return the edits of a body for the model of `call`. `notes` becomes the notes on them."""
    notes.clear()
    if call.limits is None or not call.dialect.thinking_forms:
        return []
    members = json_spans.find_members(body)
    try:
        fields = _decode_fields(body)
    except msgspec.ValidationError:
        return []  # the server explains what is wrong
    thinking, config = fields.thinking or {}, fields.output_config or {}
    places = {member.key: place for place, member in enumerate(members)}
    fit = _Fit(body, members, places, [True] * len(members), call.dialect, call.limits, notes)
    most = fit.fit_output_limit(None if fields.max_tokens is None else int(fields.max_tokens), thinking)
    fit.fit_effort(config)
    fit.fit_thinking(thinking, config.get("effort"), most)
    fit.fit_sampling()
    fit.fit_prefill()
    return fit.edits + json_spans.build_removal_edits(members, fit.kept)
