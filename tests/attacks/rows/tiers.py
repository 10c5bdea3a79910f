"""Names of models that hold the names of several tiers, or of a model behind a mark: no key reaches another model."""

from tests.attacks.buyer import KEY_SETTINGS, Attempts, Buyer
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.upstream import reply_text
from tests.faults.client import Answer

_RULES = (["claude-haiku-*"], ["haiku"], ["openai/gpt-cheap", "claude-haiku-4-5"], ["claude-haiku-4-5"])
_NAMES = (
    *("claude-haiku-4-5", "claude-haiku-opus-4", "claude-haiku-4-5-opus", "claude-haiku-4-5-sonnet", "haiku"),
    *("claude-haiku-fable", "haiku-opus", "opus-haiku", "claude-opus-haiku", "claude-haiku-4-5[1m]", "opus[haiku]"),
    *("claude-haiku-4-5@opus", "claude-haiku-4-5/opus", "claude-haiku-4-5:opus", "openai/claude-haiku-opus"),
    *("claude-haiku-*", "CLAUDE-HAIKU-OPUS", "claude-haiku-4-5 opus", "anthropic/claude-haiku-opus", "opus", "sonnet"),
    *("openai/gpt-cheap/../gpt-dear", "openai/gpt-dear#claude-haiku-4-5", "claude-haiku-4-5?model=opus", "default"),
    *("claude-haiku-4-5\0opus", "openai/gpt-dear", "gpt-dear", "openai/GPT-dear", "openai//gpt-dear", " opus ", ""),
)


def _name_tiers(attack: Attack) -> list[Answer]:
    attempts = Attempts()
    attack.upstream.reply = reply_text("All is well.")
    for number, rules in enumerate(_RULES):
        buyer = Buyer(attack, f"buyer-{number}", models=rules)
        for name in _NAMES:
            for streams in (False, True):
                attack.upstream.calls.clear()
                answer = buyer.post({**ordinary(name), "stream": streams})
                used = [str(call.body.get("model")) for call in attack.upstream.calls]
                is_held = not any("dear" in model or "mid" in model for model in used)
                attempts.check(f"{name!r} by {rules}", is_held and answer.status_code < 500, (used, answer.text))
    return attempts.finish(attack)


_TIERS = {"MODEL_OPUS": "openai/gpt-dear", "MODEL_FABLE": "openai/gpt-dear", "MODEL_SONNET": "openai/gpt-mid"}
TIERS: tuple[Row, ...] = tuple(
    Row(
        name=f"tiers in the name of a model, {provider}",
        run=_name_tiers,
        settings={**KEY_SETTINGS, **_TIERS, "MODEL_HAIKU": "openai/gpt-cheap", "PREFERRED_PROVIDER": provider},
    )
    for provider in ("openai", "ollama")
)
