"""Edits that fit a request to a model for which it was not written: fields that the model does not accept.

Such a model was chosen by a setting in place of the client's, or the proxy asks it. The rules are those for providers
with another API: the output limit and the effort levels of the model, the nearest form of thinking, room for thinking
that cannot be turned off, a text in place of a forced tool call or of a prefill, and a function in place of a tool that
Anthropic has defined. A request that the model accepts stays as it is.

Example. Claude Code asks for `claude-opus-4-8`, and `BIG_MODEL` chooses `claude-haiku-4-5`, which has no effort levels,
writes at most 64,000 tokens, and thinks with a number of tokens. The first line becomes the second one:

    "max_tokens": 128000, "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}
    "max_tokens": 64000, "thinking": {"type": "enabled", "budget_tokens": 32000}

A question without thinking gets the lowest effort of `claude-opus-5-5`, which always thinks, and room for it. Without
the field it is one too, unless the client names an effort, or a model that thinks in any case:

    "max_tokens": 512, "thinking": {"type": "disabled"}
    "max_tokens": 4608, "output_config": {"effort": "low"}
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.efforts import REASONING_EFFORTS, nearest_effort
from anthropic_proxy.engine.messages.fidelity import FidelityNote, note_replacement
from anthropic_proxy.engine.messages.models import Tool, ToolChoice, json_string
from anthropic_proxy.engine.messages.preparation import (
    DEFAULT_MAX_TOKENS,
    REASONING_RESERVES,
    THINKING_BUDGETS,
    define_function,
)
from anthropic_proxy.engine.messages.server_tools import CALL_TYPES
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.conversation import find_disabling_edits
from anthropic_proxy.engine.wires.anthropic.dialect import Dialect
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan
from anthropic_proxy.engine.wires.anthropic.tools import is_missing_tool
from anthropic_proxy.engine.wires.calls import ModelLimits, RelayCall
from anthropic_proxy.engine.wires.message_encoder import CONTINUE_TEXT
from anthropic_proxy.engine.wires.shared_notes import NO_EFFORT, NO_SAMPLING, PREFILL_AS_TEXT, renamed_effort_note
from anthropic_proxy.engine.wires.tools import emulate_forced_tool

_MIN_BUDGET = 1_024
"""Minimum `budget_tokens` (the API reference, "Extended thinking"). With less room, the request does not think."""
_DEFAULT_EFFORT = "medium"
_LOWEST_EFFORT = "low"
_DEFAULT_DISPLAY = "summarized"
"""`thinking.display` of models with budgets; models without them show no thinking by default
(anthropics/claude-code issue 49268; docker/docker-agent pull request 2451)."""
_BUDGET_OF_EFFORT = {effort: budget for budget, effort in THINKING_BUDGETS}
_MOST_TOKENS = max(_BUDGET_OF_EFFORT.values())
_WITHOUT = ("disabled", "between_tools")
"""Types of `thinking` with which a reply does not begin with thinking."""
_LOSES_THINKING = FidelityNote("approximated", "thinking", "the model does not think, or has no room for a budget")
_LOSES_BUDGET = FidelityNote("approximated", "thinking.budget_tokens", "the model decides how much to think")
_ALWAYS_THINKS = FidelityNote("approximated", "thinking", "the model always thinks, so it gets its lowest effort")
_TOOL_AS_FUNCTION = "the model does not have this version, and gets a function with the same calls"
_WITHOUT_THINKING = ", the highest level without thinking"
_OF_EACH_TOOL = ("cache_control", "defer_loading")
_WITH_RESERVE = ", with a reserve for thinking, which the model does in any case"
_HAS_NEXT_FORM = ", the form that the model has"


class _Fields(Struct):
    max_tokens: int | float | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    tool_choice: Raw = Raw()
    tools: Raw = Raw()


class _Message(Struct):
    role: str = ""
    content: Any = None


_decode_fields, _decode_message = msgspec.json.Decoder(_Fields).decode, msgspec.json.Decoder(_Message).decode
_decode_choice, _decode_tool = msgspec.json.Decoder(ToolChoice).decode, msgspec.json.Decoder(Tool).decode
_decode_tools = msgspec.json.Decoder(list[Tool]).decode


class _Fit(Struct):
    """The edits of one body for a model."""

    body: bytes
    members: Sequence[JsonSpan]
    places: Mapping[str, int]
    """Field → its index in `members`."""
    kept: list[bool]
    dialect: Dialect
    limits: ModelLimits
    provider: str
    notes: list[FidelityNote]
    max_tokens: int | None
    """None: the client sends none."""
    thinking: dict[str, Any]
    effort: Any
    """`output_config.effort`. None: the client sends none."""
    has_unwanted_thinking: bool = False
    """True if the client has turned thinking off, and the model always thinks."""
    edits: list[Edit] = []
    user_texts: list[bytes] = []
    """JSON strings, each of which is added as a user message."""

    def replace(self, field: str, value: Any) -> None:
        """None: the field is removed."""
        if field not in self.places:
            end = self.members[-1].end
            self.edits.append(Edit(end, end, b",%b:%b" % (json_string(field), msgspec.json.encode(value))))
            return
        place = self.places[field]
        if value is None:
            self.kept[place] = False
        else:
            self.edits.append(Edit(self.members[place].value, self.members[place].end, msgspec.json.encode(value)))

    def fit_output_limit(self) -> None:
        most = self.limits.max_output
        if self.max_tokens is None or most is None or self.max_tokens <= most:
            return
        self.notes.append(note_replacement("max_tokens", self.max_tokens, most, ", the model's limit"))
        self.max_tokens = most
        budget = self.thinking.get("budget_tokens")
        is_budget = self.thinking.get("type") == "enabled" and "enabled" in self.dialect.thinking_forms
        if is_budget and isinstance(budget, int) and budget >= most:
            self.thinking = {**self.thinking, "budget_tokens": most - 1}
            self.notes.append(note_replacement("thinking.budget_tokens", budget, most - 1, ", less than max_tokens"))

    def fit_thinking(self, asked_effort: object) -> None:
        forms = self.dialect.thinking_forms
        form = self.thinking.get("type")
        asks_for_none = asked_effort is None and not self.limits.thinks_unasked
        if not self.thinking and self.dialect.thinks_always and asks_for_none:
            form = "disabled"
        if form in forms:
            return
        if form in _WITHOUT:
            self._turn_thinking_off(form)
        elif form not in ("adaptive", "enabled"):
            return  # the server knows it, or explains what is wrong
        elif "adaptive" in forms:
            self.notes.append(_LOSES_BUDGET)
            self.thinking = {"type": "adaptive", "display": self.thinking.get("display", _DEFAULT_DISPLAY)}
        else:
            self._give_budget(asked_effort)

    def _turn_thinking_off(self, form: str) -> None:
        other = next((name for name in _WITHOUT if name in self.dialect.thinking_forms), None)
        if other is not None:
            self.notes.append(note_replacement("thinking", form, other, _HAS_NEXT_FORM))
            self.thinking = {"type": other}
            return
        self.notes.append(_ALWAYS_THINKS)
        self.thinking = {}
        self.has_unwanted_thinking = True
        if self.limits.efforts != ():
            self.effort = nearest_effort(_LOWEST_EFFORT, self.limits.efforts or (_LOWEST_EFFORT,))

    def _give_budget(self, effort: object) -> None:
        wanted = _BUDGET_OF_EFFORT[_DEFAULT_EFFORT]
        if effort in REASONING_EFFORTS:
            wanted = _BUDGET_OF_EFFORT.get(effort, _MOST_TOKENS)
        room = (self.max_tokens or self.limits.max_output or DEFAULT_MAX_TOKENS) // 2
        budget = min(wanted, room) if "enabled" in self.dialect.thinking_forms else 0
        if budget >= _MIN_BUDGET:
            self.notes.append(note_replacement("thinking", "adaptive", f"{budget} tokens", _HAS_NEXT_FORM))
            display = {"display": self.thinking["display"]} if "display" in self.thinking else {}
            self.thinking = {"type": "enabled", "budget_tokens": budget, **display}
            return
        self.notes.append(_LOSES_THINKING)
        self.thinking = {}
        if "context_management" in self.places:
            place = self.places["context_management"]
            disabling = find_disabling_edits(self.body, self.members[place])
            self.kept[place] = disabling is not None
            self.edits += disabling or ()

    def fit_effort(self) -> None:
        efforts = self.limits.efforts
        if self.effort not in REASONING_EFFORTS:
            if isinstance(self.effort, str) and efforts == ():
                self.notes.append(NO_EFFORT)
                self.effort = None
            return
        fitted = self.effort if efforts is None or self.effort in efforts else ""
        if efforts and not fitted:
            fitted = nearest_effort(self.effort, efforts)
        if fitted != self.effort:
            self.notes.append(renamed_effort_note(self.effort, fitted) if fitted else NO_EFFORT)
            self.effort = fitted or None

    def lower_effort_without_thinking(self) -> None:
        most, efforts = self.dialect.max_effort_without_thinking, self.limits.efforts or REASONING_EFFORTS
        if most and self.effort in REASONING_EFFORTS and self.thinking.get("type") in _WITHOUT:
            lower = nearest_effort(min(self.effort, most, key=REASONING_EFFORTS.index), efforts)
            if lower != self.effort:
                self.notes.append(note_replacement("output_config.effort", self.effort, lower, _WITHOUT_THINKING))
                self.effort = lower

    def add_room_for_thinking(self) -> None:
        """Add what the thinking may need that the client has turned off and the model does in any case."""
        if not self.has_unwanted_thinking or self.max_tokens is None:
            return
        reserve = REASONING_RESERVES[self.effort or _LOWEST_EFFORT]
        if 1 < self.max_tokens < reserve:  # with one token, a client only wants to know whether the model answers
            with_room = min(self.max_tokens + reserve, self.limits.max_output or self.max_tokens + reserve)
            self.notes.append(note_replacement("max_tokens", self.max_tokens, with_room, _WITH_RESERVE))
            self.max_tokens = with_room

    def fit_sampling(self) -> None:
        for name, note in NO_SAMPLING.items() if not self.dialect.accepts_sampling else ():
            if name in self.places:
                self.replace(name, None)
                self.notes.append(note)

    def fit_tools(self, tools: Raw) -> None:
        patterns = self.dialect.tools_as_functions
        if not patterns or not bytes(tools).startswith(b"["):
            return
        member = self.members[self.places["tools"]]
        for span in json_spans.find_elements(self.body, member.value, member.end):
            with suppress(msgspec.ValidationError):
                text = self.body[span.value : span.end]
                tool = _decode_tool(text)
                if any(fnmatchcase(tool.type or "", pattern) for pattern in patterns):
                    given = msgspec.json.decode(text, type=dict[str, Raw])
                    function = msgspec.json.decode(define_function(tool).source, type=dict[str, Raw])
                    function |= {name: given[name] for name in _OF_EACH_TOOL if name in given}
                    self.edits.append(Edit(span.value, span.end, msgspec.json.encode(function)))
                    self.notes.append(FidelityNote("emulated", f"tools.{tool.name}", _TOOL_AS_FUNCTION))

    def fit_tool_choice(self, given: Raw, tools: Raw) -> None:
        if self.dialect.accepts_forced_tool == "always" or not given:
            return
        with suppress(msgspec.ValidationError):
            choice = _decode_choice(given)
            thinks = self.dialect.thinks_always or self.thinking.get("type") in ("adaptive", "enabled")
            emulated = emulate_forced_tool(choice, self.dialect.accepts_forced_tool, self.provider, thinks=thinks)
            if emulated is None or not self._offers(choice, tools):
                return
            fields = msgspec.json.decode(given, type=dict[str, Any])
            fields.pop("name", None)
            self.replace("tool_choice", {**fields, "type": emulated.type})
            self.user_texts.append(json_string(emulated.user_instruction))
            self.notes.append(emulated.note)

    def _offers(self, choice: ToolChoice, tools: Raw) -> bool:
        """Return True if the server has a tool that the client forces. False: an error explains it."""
        offered = _decode_tools(tools) if tools else []
        known = [tool.name for tool in offered if not is_missing_tool(tool.type or "", self.dialect)]
        return bool(known) if choice.type == "any" else choice.name in known

    def fit_end(self) -> None:
        """Add a user message for each of `user_texts`, and one that asks to continue in place of a prefill."""
        if "messages" not in self.places or not (self.user_texts or not self.dialect.accepts_prefill):
            return
        member = self.members[self.places["messages"]]
        is_list = self.body[member.value] == ord("[")
        messages = json_spans.find_elements(self.body, member.value, member.end) if is_list else []
        with suppress(msgspec.ValidationError):
            last = _decode_message(self.body[messages[-1].start : messages[-1].end]) if messages else _Message()
            blocks = last.content if isinstance(last.content, list) else []
            if any(isinstance(block, dict) and block.get("type") in CALL_TYPES for block in blocks):
                return  # a paused reply, which the model continues
            if last.role == "assistant" and not self.dialect.accepts_prefill:
                self.user_texts.insert(0, CONTINUE_TEXT)
                self.notes.append(PREFILL_AS_TEXT)
            added = b"".join(b',{"role":"user","content":%b}' % text for text in self.user_texts)
            if messages and added:
                self.edits.append(Edit(messages[-1].end, messages[-1].end, added))


def find_fitting_edits(body: bytes, call: RelayCall[Dialect], notes: list[FidelityNote]) -> list[Edit]:
    """Return the edits of a body for the model of `call`. `notes` becomes the notes on them."""
    notes.clear()
    dialect, limits = call.dialect, call.limits
    if limits is None or not (dialect.thinking_forms or dialect.accepts_forced_tool != "always"):
        return []
    members = json_spans.find_members(body, most=call.max_schema_steps)
    try:
        fields = _decode_fields(body)
    except msgspec.ValidationError:
        return []  # the server explains what is wrong
    config = fields.output_config or {}
    fit = _Fit(
        body,
        members,
        {member.key: place for place, member in enumerate(members)},
        [True] * len(members),
        dialect,
        limits,
        call.provider_prefix,
        notes,
        max_tokens=None if fields.max_tokens is None else int(fields.max_tokens),
        thinking=fields.thinking or {},
        effort=config.get("effort"),
    )
    given = fit.max_tokens, fit.thinking, fit.effort
    if dialect.thinking_forms:
        fit.fit_output_limit()
        fit.fit_effort()
        fit.fit_thinking(config.get("effort"))
        fit.lower_effort_without_thinking()
        fit.add_room_for_thinking()
        fit.fit_sampling()
        fit.fit_tools(fields.tools)
    fit.fit_tool_choice(fields.tool_choice, fields.tools)
    fit.fit_end()
    if fit.max_tokens != given[0]:
        fit.replace("max_tokens", fit.max_tokens)
    if fit.thinking != given[1]:
        fit.replace("thinking", fit.thinking or None)
    if fit.effort != given[2]:
        others = {name: value for name, value in config.items() if name != "effort"}
        fit.replace("output_config", (others | {"effort": fit.effort} if fit.effort else others) or None)
    return fit.edits + json_spans.build_removal_edits(members, fit.kept)
