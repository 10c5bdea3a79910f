"""Models, limits and budgets of virtual keys as users write them: `claude-*,openai/gpt-4.1`, `60`, `50USD/month`.

`decode_rule_texts` converts such texts to fields of `Rules`, and `encode_rule_texts` converts them back. Commands and
forms of the dashboard use the same texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from anthropic_proxy.access.rules import LIST_FIELDS, Rules, decode_budget
from anthropic_proxy.errors import InvalidRequest

NONE = "none"
"""Text that removes a limit: the value of an option of a command, or of a field of a form."""
NUMBER_FIELDS = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute", "concurrency": "concurrency"}
"""Name of an option with a number, such as `rpm` → field of `Rules`."""
RULE_NAMES = (*LIST_FIELDS, *NUMBER_FIELDS, "budget")
"""Names of all options for rules: `models`, `rpm`, `budget` and others."""


def decode_rule_texts(given: Mapping[str, str | Sequence[str]], prefix: str = "") -> dict[str, Any]:
    """Convert texts of options, such as `50USD/month` for `budget`, to values for the fields of `Rules`.

    `given` maps the name of an option (`RULE_NAMES`) to its text. `prefix`, such as `--`, precedes this name in error
    messages. Raises `InvalidRequest` for an invalid number or budget.
    """
    changes: dict[str, Any] = {}
    for name, value in given.items():
        texts = [value] if isinstance(value, str) else value
        if name in NUMBER_FIELDS:
            changes[NUMBER_FIELDS[name]] = _decode_number(f"{prefix}{name}", texts[-1])
            continue
        items = [item.strip() for text in texts if text.strip().lower() != NONE for item in text.split(",")]
        if name == "budget":
            changes["budgets"] = tuple(decode_budget(item) for item in items)
        else:
            changes[name] = tuple(dict.fromkeys(items))
    return changes


def encode_rule_texts(rules: Rules) -> dict[str, str]:
    """Convert `rules` to the texts that `decode_rule_texts` accepts: option name → text. "": no limit."""
    texts = {name: ",".join(getattr(rules, name)) for name in LIST_FIELDS}
    for name, field in NUMBER_FIELDS.items():
        value = getattr(rules, field)
        texts[name] = "" if value is None else str(value)
    return {**texts, "budget": ",".join(budget.encoded_text for budget in rules.budgets)}


def _decode_number(name: str, text: str) -> int | None:
    text = text.strip()
    if text.lower() == NONE:
        return None
    digits = text.replace("_", "").replace(",", "")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 13 and int(digits)):
        raise InvalidRequest(f'{name} is "{text[:60]}". Use a whole number above 0, or none: no limit.')
    return int(digits)
