"""The models that the stand-in has, with the limits that the real ones enforce on Chat Completions."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """The limits and abilities of one model. `efforts` empty: it does not reason and refuses `reasoning_effort`."""

    window: int
    output: int
    efforts: tuple[str, ...] = ()
    default_effort: str = "medium"
    snapshot: str = ""
    """The value of the reply's `model`; empty: the id itself."""
    pictures: bool = True
    parallel_calls: bool = True
    """False: `parallel_tool_calls` is refused (the o-series)."""
    tools_need_no_effort: bool = False
    """True: functions together with any effort but none are sent to the Responses API."""
    chat: bool = True
    """False: exists on the Responses API only."""

    @property
    def reasons(self) -> bool:
        return bool(self.efforts)


_LOW_TO_HIGH = ("low", "medium", "high")
_GPT5 = ("minimal", *_LOW_TO_HIGH)
_GPT51 = ("none", *_LOW_TO_HIGH)
_GPT54 = (*_GPT51, "xhigh")
_O = {"window": 200_000, "output": 100_000, "efforts": _LOW_TO_HIGH, "parallel_calls": False}
_5 = {"window": 400_000, "output": 128_000}
_54 = {"window": 1_050_000, "output": 128_000, "efforts": _GPT54, "tools_need_no_effort": True}

MODELS = {
    "gpt-4.1": Model(1_047_576, 32_768, snapshot="gpt-4.1-2025-04-14"),
    "gpt-4.1-mini": Model(1_047_576, 32_768, snapshot="gpt-4.1-mini-2025-04-14"),
    "gpt-4.1-nano": Model(1_047_576, 32_768, snapshot="gpt-4.1-nano-2025-04-14"),
    "gpt-4o": Model(128_000, 16_384, snapshot="gpt-4o-2024-08-06"),
    "gpt-4o-mini": Model(128_000, 16_384, snapshot="gpt-4o-mini-2024-07-18"),
    "chatgpt-4o-latest": Model(128_000, 16_384),
    "gpt-4": Model(8_192, 8_192, snapshot="gpt-4-0613", pictures=False),
    "gpt-3.5-turbo": Model(16_385, 4_096, snapshot="gpt-3.5-turbo-0125", pictures=False),
    "o1": Model(**_O, snapshot="o1-2024-12-17"),
    "o3": Model(**_O, snapshot="o3-2025-04-16"),
    "o3-mini": Model(**_O, snapshot="o3-mini-2025-01-31", pictures=False),
    "o4-mini": Model(**_O, snapshot="o4-mini-2025-04-16"),
    "gpt-5": Model(**_5, efforts=_GPT5, snapshot="gpt-5-2025-08-07"),
    "gpt-5-mini": Model(**_5, efforts=_GPT5, snapshot="gpt-5-mini-2025-08-07"),
    "gpt-5-nano": Model(**_5, efforts=_GPT5, snapshot="gpt-5-nano-2025-08-07"),
    "gpt-5.1": Model(**_5, efforts=_GPT51, default_effort="none", snapshot="gpt-5.1-2025-11-13"),
    "gpt-5.2": Model(**_5, efforts=_GPT54, default_effort="none", snapshot="gpt-5.2-2025-12-11"),
    "gpt-5.4": Model(**_54, default_effort="none"),
    "gpt-5.5": Model(**_54),
    "o1-pro": Model(200_000, 100_000, efforts=_LOW_TO_HIGH, chat=False),
    "gpt-5-pro": Model(400_000, 272_000, efforts=("high",), chat=False),
    "gpt-5.3-codex": Model(400_000, 128_000, efforts=_LOW_TO_HIGH, chat=False),
}


def find_model(name: str) -> Model | None:
    """Return the model of that id or snapshot; one named `fault-…` is like gpt-4.1 and fails by plan."""
    if name.startswith("fault-"):
        return MODELS["gpt-4.1"]
    if name in MODELS:
        return MODELS[name]
    return next((model for model in MODELS.values() if model.snapshot == name), None)
