"""One value for how much the model should reason, from the four ways to say it."""

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare.request import Limits
from anthropic_proxy.messages.types import MessagesRequest

_SCALE = ("minimal", "low", "medium", "high", "xhigh", "max")
_BUDGETS = ((4_096, "low"), (16_384, "medium"), (32_000, "high"))
"""Most tokens of a thinking budget → the effort that it stands for; above: `xhigh`."""


def resolve_effort(request: MessagesRequest, limits: Limits) -> tuple[str, list[Note]]:
    """Return `default`, `none` or a level of the target, and what was changed on the way."""
    asked, notes = _asked(request)
    if not limits.efforts or asked == "default":
        wants_thinking = request.thinking is not None and request.thinking.type in ("enabled", "adaptive")
        if limits.efforts and limits.default_effort == "none" and wants_thinking:
            return _nearest("medium", limits.efforts), notes
        return "default", notes
    effort = _quietest(limits.efforts) if asked == "none" else _nearest(asked, limits.efforts)
    if effort != asked:
        field = "thinking" if asked == "none" else "output_config.effort"
        notes.append(Note("approximated", field, f"{asked} → {effort}; the model knows {', '.join(limits.efforts)}"))
    return effort, notes


def _asked(request: MessagesRequest) -> tuple[str, list[Note]]:
    thinking, config = request.thinking, request.output_config
    notes: list[Note] = []
    if thinking is not None and thinking.type == "disabled":
        return "none", notes
    if config is not None and config.effort is not None:
        if config.effort == "none" or config.effort in _SCALE:
            return config.effort, notes
        notes.append(Note("dropped", "output_config.effort", f"{config.effort!r} is not a known level"))
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
