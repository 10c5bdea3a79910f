"""The models that the stand-in has, with the limits that the real ones enforce."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """Features that one model allows."""

    title: str
    window: int
    output: int
    snapshot: str = ""
    """Value of `model` in the reply; empty: the id itself."""
    prefill: bool = False
    """True if the last message may be the assistant's."""
    thinking: tuple[str, ...] = ("adaptive",)
    """Types of `thinking` that it accepts."""
    forced_tools: bool = True
    """True if a request may force it to call a tool."""
    computer: str = "computer_20251124"
    """Type of its newest computer tool."""
    most_effort_without_thinking: str = "max"

    def allows_effort(self, effort: str, thinking: str) -> bool:
        without = thinking in ("disabled", "between_tools")
        return not without or EFFORTS.index(effort) <= EFFORTS.index(self.most_effort_without_thinking)


EFFORTS = ("low", "medium", "high", "xhigh", "max")
_NEW = {"window": 1_000_000, "output": 128_000}
_5 = {**_NEW, "most_effort_without_thinking": "high"}
_5_5 = {**_5, "forced_tools": False, "computer": "computer_toolset_20260801"}
_4_5 = {"window": 200_000, "output": 64_000, "prefill": True, "thinking": ("enabled", "disabled")}

MODELS = {
    "claude-opus-5-5": Model("Claude Opus 5.5", **_5_5),
    "claude-sonnet-5-5": Model("Claude Sonnet 5.5", **_5_5, thinking=("adaptive", "between_tools")),
    "claude-haiku-5-5": Model("Claude Haiku 5.5", **{**_5_5, "forced_tools": True}, thinking=("adaptive", "disabled")),
    "claude-fable-5-2": Model("Claude Fable 5.2", **{**_5, "forced_tools": False}),
    "claude-opus-5": Model("Claude Opus 5", **_5, thinking=("adaptive", "disabled")),
    "claude-opus-4-6": Model("Claude Opus 4.6", **_NEW, thinking=("adaptive", "enabled", "disabled")),
    "claude-sonnet-4-5": Model("Claude Sonnet 4.5", **_4_5, snapshot="claude-sonnet-4-5-20250929"),
    "claude-haiku-4-5": Model("Claude Haiku 4.5", **_4_5, snapshot="claude-haiku-4-5-20251001"),
}


def find_model(name: str) -> Model | None:
    """Return the model of that id or snapshot; one named `fault-…` fails by plan."""
    if name.startswith("fault-"):
        return MODELS["claude-sonnet-5-5"]
    if name in MODELS:
        return MODELS[name]
    return next((model for model in MODELS.values() if model.snapshot == name), None)
