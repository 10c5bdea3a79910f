"""One value for how much the model should reason, from the four ways to say it."""

import functools

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare.request import Limits
from anthropic_proxy.messages.types import MessagesRequest

_SCALE = ("minimal", "low", "medium", "high", "xhigh", "max")
_BUDGETS = ((4_096, "low"), (16_384, "medium"), (32_000, "high"))
"""Most tokens of a thinking budget → the effort that it stands for; above: `xhigh`."""
_BUDGET = {
    effort: Note("approximated", "thinking.budget_tokens", f"said as the effort {effort}")
    for effort in ("low", "medium", "high", "xhigh")
}
_BETWEEN_TOOLS = Note("approximated", "thinking", "between_tools is said as the effort low")
_AS_IT_IS = Note("kept", "thinking", "the model decides how much to reason, as it does unasked")
_UNTOLD = {
    field: Note("approximated", field, "no levels of the model are known, so it is not told how much to reason")
    for field in ("thinking", "output_config.effort")
}


def resolve_effort(request: MessagesRequest, limits: Limits) -> tuple[str, list[Note]]:
    """Return `default`, `none` or a level of the target, and what was changed on the way."""
    asked, notes = _asked(request)
    if not limits.efforts:
        return "default", [*notes, *_untold(request, asked)]
    if asked == "default":
        wants_thinking = request.thinking is not None and request.thinking.type in ("enabled", "adaptive")
        if limits.default_effort == "none" and wants_thinking:
            return _nearest("medium", limits.efforts), notes
        return "default", [*notes, _AS_IT_IS] if wants_thinking else notes
    if request.thinking is not None and request.thinking.type == "between_tools" and asked == "low":
        notes.append(_BETWEEN_TOOLS)
    elif asked in _BUDGET and _is_budget(request) and not limits.takes_budgets:
        notes.append(_BUDGET[asked])
    effort = _quietest(limits.efforts) if asked == "none" else _nearest(asked, limits.efforts)
    if effort != asked:
        field = "thinking" if asked == "none" else "output_config.effort"
        notes.append(_nearest_note(field, asked, effort, limits.efforts))
    return effort, notes


def _untold(request: MessagesRequest, asked: str) -> tuple[Note, ...]:
    """Return what becomes of thinking and effort where no level can be said."""
    if request.thinking is not None:
        return (_UNTOLD["thinking"],)
    return () if asked == "default" else (_UNTOLD["output_config.effort"],)


def _is_budget(request: MessagesRequest) -> bool:
    """Whether the effort comes from a budget, not from a level that stands beside it."""
    thinking, config = request.thinking, request.output_config
    named = config is not None and config.effort is not None
    return thinking is not None and thinking.budget_tokens is not None and not named


@functools.lru_cache(maxsize=256)
def _nearest_note(field: str, asked: str, effort: str, efforts: tuple[str, ...]) -> Note:
    return Note("approximated", field, f"{asked} → {effort}; the model knows {', '.join(efforts)}")


def _asked(request: MessagesRequest) -> tuple[str, list[Note]]:
    thinking, config = request.thinking, request.output_config
    notes: list[Note] = []
    if thinking is not None and thinking.type == "disabled":
        return "none", notes
    if config is not None and config.effort is not None:
        if config.effort == "none" or config.effort in _SCALE:
            return config.effort, notes
        notes.append(Note("approximated", "output_config.effort", "it is no level that is known here"))
    if thinking is None:
        return "default", notes
    if thinking.budget_tokens is not None:
        return next((effort for most, effort in _BUDGETS if thinking.budget_tokens <= most), "xhigh"), notes
    return ("low" if thinking.type == "between_tools" else "default"), notes


def _quietest(efforts: tuple[str, ...]) -> str:
    return next((effort for effort in ("none", *_SCALE) if effort in efforts), "default")


def _nearest(asked: str, efforts: tuple[str, ...]) -> str:
    place = _SCALE.index(asked)
    below = [effort for effort in _SCALE[: place + 1] if effort in efforts]
    above = [effort for effort in _SCALE[place + 1 :] if effort in efforts]
    return below[-1] if below else above[0] if above else "default"
