"""The models that the stand-in has, with the limits that the real ones enforce (model pages of both doors, 2026-11)."""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Model:
    """The features and limits of one model."""

    output: int = 65_536
    window: int = 1_048_576
    levels: tuple[str, ...] = ()
    """Thinking levels; empty: it has none."""
    default_level: str = "medium"
    budgets: tuple[int, int] | None = None
    """Least and most thinking budget; None: it takes none."""
    turns_off: bool = False
    """True if a budget of 0 is allowed."""
    signs: bool = False
    """True if the first call of a step must come back with its signature, and the last turn must be the user's."""
    sampling: Literal["taken", "ignored", "refused"] = "taken"
    tools: bool = True
    combines: bool = False
    """True if functions may stand beside a reply's schema, and beside Google's own tools."""
    json_schema: bool = True
    """True if it knows `parametersJsonSchema` and `responseJsonSchema`."""
    accepts_media_in_results: bool = False

    @property
    def thinks(self) -> bool:
        return bool(self.levels) or self.budgets is not None


_LOW_TO_HIGH = ("low", "medium", "high")
_3 = Model(levels=("minimal", *_LOW_TO_HIGH), signs=True, combines=True, accepts_media_in_results=True)
_3_6 = replace(_3, sampling="ignored")
_3_PRO = replace(_3, levels=_LOW_TO_HIGH, default_level="high")

MODELS = {
    "gemini-1.5-pro": Model(8_192, 2_097_152, json_schema=False),
    "gemini-2.0-flash": Model(8_192),
    "gemini-2.5-pro-preview-03-25": Model(budgets=(128, 32_768)),
    "gemini-2.5-pro": Model(budgets=(128, 32_768)),
    "gemini-2.5-flash": Model(budgets=(1, 24_576), turns_off=True),
    "gemini-2.5-flash-lite": Model(budgets=(512, 24_576), turns_off=True),
    "gemini-3-flash-preview": replace(_3, default_level="high"),
    "gemini-3.1-pro-preview": _3_PRO,
    "gemini-3.1-flash-lite": replace(_3, default_level="minimal"),
    "gemini-3.5-flash-lite": replace(_3_6, default_level="minimal"),
    "gemini-3.6-flash": _3_6,
    "gemini-3.7-flash": replace(_3_6, levels=_LOW_TO_HIGH),
    "gemini-3.8-flash": replace(_3_6, levels=_LOW_TO_HIGH),
    "gemini-4-argon": replace(_3_6, output=1_048_576, levels=_LOW_TO_HIGH, sampling="refused"),
    "gemini-4-carbon": replace(_3_6, output=1_048_576, levels=_LOW_TO_HIGH, sampling="refused"),
    "gemini-4-hydrogen": replace(
        _3_6, output=1_048_576, levels=(*_LOW_TO_HIGH, "xhigh"), default_level="high", sampling="refused"
    ),
    "gemini-4-neon": replace(_3_6, levels=(*_LOW_TO_HIGH, "xhigh"), default_level="high", sampling="refused"),
    "gemini-flash-latest": replace(_3_6, levels=_LOW_TO_HIGH),
    "gemma-3-27b-it": Model(8_192, 131_072, tools=False),
}


def find_model(name: str) -> Model | None:
    """Return the model of that id; one named `fault-…` is like gemini-3.6-flash and fails by plan."""
    return MODELS["gemini-3.6-flash"] if name.startswith("fault-") else MODELS.get(name)
