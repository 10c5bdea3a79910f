"""Request fields by which Chat Completions servers get the level of reasoning, or switch reasoning on and off."""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct, structs

EffortFormName = Literal[
    "omit",
    "reasoning_effort",
    "thinking",
    "thinking_and_effort",
    "thinking_effort",
    "reasoning",
    "reasoning_enabled",
    "enable_thinking",
    "chat_template_kwargs",
    "chat_template_args",
]


class EffortForm(Struct, frozen=True):
    level: tuple[str, ...] = ()
    """Path of the field with the level. (): the form has no levels."""
    switch: tuple[str, ...] = ()
    """Path of the field that switches reasoning on and off. (): the form has none."""
    on: Any = True
    off: Any = False
    level_replaces_switch: bool = False
    """True if the switch is sent only without a level. Otherwise the level `none` is sent only by the switch."""

    def write(self, body: dict[str, Any], level: str | None) -> None:
        """Add the fields for a level to a request body. None: the client asks for reasoning without a level."""
        has_level = bool(self.level) and level is not None
        values: dict[tuple[str, ...], Any] = {}
        if self.switch and not (has_level and self.level_replaces_switch):
            values[self.switch] = self.off if level == "none" else self.on
        if has_level and (level != "none" or not self.switch or self.level_replaces_switch):
            values[self.level] = level
        for path in sorted(values, key=len):  # objects come last
            place = body
            for parent in path[:-1]:
                place = place.setdefault(parent, {})
            place[path[-1]] = values[path]


_THINKING = EffortForm(switch=("thinking", "type"), on="enabled", off="disabled")
EFFORT_FORMS: Mapping[EffortFormName, EffortForm] = {
    "omit": EffortForm(),
    "reasoning_effort": EffortForm(level=("reasoning_effort",)),
    "thinking": _THINKING,  # Kimi k2.5 and k2.6, Z.ai
    "thinking_and_effort": structs.replace(_THINKING, level=("reasoning_effort",)),  # DeepSeek v4
    "thinking_effort": structs.replace(_THINKING, level=("thinking", "effort")),  # Kimi Code
    # OpenRouter, Vercel
    "reasoning": EffortForm(level=("reasoning", "effort"), switch=("reasoning", "enabled"), level_replaces_switch=True),
    "reasoning_enabled": EffortForm(switch=("reasoning", "enabled")),  # Together: docs.together.ai, "Reasoning"
    # DashScope: alibabacloud.com/help, "Deep thinking"
    "enable_thinking": EffortForm(switch=("enable_thinking",)),
    "chat_template_kwargs": EffortForm(switch=("chat_template_kwargs", "enable_thinking")),  # NVIDIA, vLLM
    "chat_template_args": EffortForm(switch=("chat_template_args", "enable_thinking")),  # Baseten; read 2026-11-23
}
EFFORT_PATHS = [path for form in EFFORT_FORMS.values() for path in (form.level, form.switch) if path]
