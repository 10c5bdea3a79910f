"""`resolve_effort`: chooses the effort level (`low`, `high`, …) that is sent to a target (provider and model).

Clients request reasoning by several fields, such as `thinking` with a number of tokens or `output_config.effort`. A
fidelity note records each field that was approximated.
"""

import functools

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import MessagesRequest
from anthropic_proxy.messages.preparation.request import TargetLimits

_SCALE = ("minimal", "low", "medium", "high", "xhigh", "max")
_BUDGETS = ((4_096, "low"), (16_384, "medium"), (32_000, "high"))
"""Rows: maximum thinking tokens, effort level. A client's token budget gets the level of the first row that allows it.
A larger budget becomes `xhigh`."""
_BUDGET = {
    effort: FidelityNote("approximated", "thinking.budget_tokens", f"sent as the effort {effort}")
    for effort in ("low", "medium", "high", "xhigh")
}
_BETWEEN_TOOLS = FidelityNote("approximated", "thinking", "between_tools is sent as the effort low")
_MODEL_DECIDES = FidelityNote("kept", "thinking", "the model decides how much to reason, as it does by default")
NO_KNOWN_EFFORTS = "the model has no known effort levels, so none is sent"
"""Reason in the fidelity note (record of a changed field) if no effort is sent."""
_UNSUPPORTED = {
    field: FidelityNote("approximated", field, NO_KNOWN_EFFORTS) for field in ("thinking", "output_config.effort")
}


def resolve_effort(request: MessagesRequest, limits: TargetLimits) -> tuple[str, list[FidelityNote]]:
    """Return the effort level to send upstream, and fidelity notes on its differences from the client's request.

    The result `default` means that no level is sent, and `none` that the model must not reason.
    """
    requested, notes = _requested(request)
    if not limits.efforts:
        return "default", [*notes, *_unsupported(request, requested)]
    if requested == "default":
        wants_thinking = request.thinking is not None and request.thinking.type in ("enabled", "adaptive")
        if limits.default_effort == "none" and wants_thinking:
            return _nearest_level("medium", limits.efforts), notes
        return "default", [*notes, _MODEL_DECIDES] if wants_thinking else notes
    if request.thinking is not None and request.thinking.type == "between_tools" and requested == "low":
        notes.append(_BETWEEN_TOOLS)
    elif requested in _BUDGET and _is_budget(request) and not limits.accepts_thinking_budget:
        notes.append(_BUDGET[requested])
    effort = _min_effort(limits.efforts) if requested == "none" else _nearest_level(requested, limits.efforts)
    if effort != requested:
        field = "thinking" if requested == "none" else "output_config.effort"
        notes.append(_nearest_note(field, requested, effort, limits.efforts))
    return effort, notes


def _unsupported(request: MessagesRequest, requested: str) -> tuple[FidelityNote, ...]:
    """Return the fidelity notes for a target without effort levels.

    `requested`: effort level that the client requested.
    """
    if request.thinking is not None:
        return (_UNSUPPORTED["thinking"],)
    return () if requested == "default" else (_UNSUPPORTED["output_config.effort"],)


def _is_budget(request: MessagesRequest) -> bool:
    """Return True if the client requested a number of thinking tokens instead of an effort level."""
    thinking, config = request.thinking, request.output_config
    named = config is not None and config.effort is not None
    return thinking is not None and thinking.budget_tokens is not None and not named


@functools.lru_cache(maxsize=256)
def _nearest_note(field: str, requested: str, effort: str, efforts: tuple[str, ...]) -> FidelityNote:
    return FidelityNote("approximated", field, f"{requested} → {effort}; the model supports {', '.join(efforts)}")


def _requested(request: MessagesRequest) -> tuple[str, list[FidelityNote]]:
    thinking, config = request.thinking, request.output_config
    notes: list[FidelityNote] = []
    if thinking is not None and thinking.type == "disabled":
        return "none", notes
    if config is not None and config.effort is not None:
        if config.effort == "none" or config.effort in _SCALE:
            return config.effort, notes
        notes.append(FidelityNote("approximated", "output_config.effort", "it is not a known level"))
    if thinking is None:
        return "default", notes
    if thinking.budget_tokens is not None:
        return next((effort for maximum, effort in _BUDGETS if thinking.budget_tokens <= maximum), "xhigh"), notes
    return ("low" if thinking.type == "between_tools" else "default"), notes


def _min_effort(efforts: tuple[str, ...]) -> str:
    return next((effort for effort in ("none", *_SCALE) if effort in efforts), "default")


def _nearest_level(requested: str, efforts: tuple[str, ...]) -> str:
    place = _SCALE.index(requested)
    below = [effort for effort in _SCALE[: place + 1] if effort in efforts]
    above = [effort for effort in _SCALE[place + 1 :] if effort in efforts]
    return below[-1] if below else above[0] if above else "default"
