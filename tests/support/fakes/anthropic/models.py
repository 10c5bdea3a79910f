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
    adaptive: bool = True
    """True if it decides itself how long to think."""


_NEW = {"window": 1_000_000, "output": 128_000}
_4_5 = {"window": 200_000, "output": 64_000, "prefill": True, "adaptive": False}

MODELS = {
    "claude-opus-5-5": Model("Claude Opus 5.5", **_NEW),
    "claude-sonnet-5-5": Model("Claude Sonnet 5.5", **_NEW),
    "claude-haiku-5-5": Model("Claude Haiku 5.5", **_NEW),
    "claude-fable-5-2": Model("Claude Fable 5.2", **_NEW),
    "claude-opus-4-6": Model("Claude Opus 4.6", **_NEW),
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
