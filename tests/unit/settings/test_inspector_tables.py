"""The tables `[[inspectors]]`: what they set, and the messages about mistakes."""

from pathlib import Path

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.gateway.settings.fields import BoundedPattern, InspectorRule
from anthropic_proxy.plugins import InspectorScope

PATTERNS = '[[inspectors]]\nname = "secrets"\ntype = "patterns"\n'
SERVICE = '[[inspectors]]\nname = "guard"\ntype = "guardrail"\n'


def load(folder: Path, text: str, **environ: str) -> Settings:
    (folder / ".env").write_text("")
    (folder / "anthropic-proxy.toml").write_text(text)
    return load_settings(environ, PROVIDERS, env_file=str(folder / ".env"), resolves_keys=True)


def rule_of(folder: Path, text: str, **environ: str) -> InspectorRule:
    (rule,) = load(folder, text, **environ).inspectors
    return rule


def test_patterns_have_their_defaults(tmp_path: Path) -> None:
    rule = rule_of(tmp_path, f"{PATTERNS}detect = ['keys']\npatterns = {{ number = '\\d+' }}")
    assert rule.patterns == {"number": BoundedPattern(r"\d{1,256}+", 256)}
    assert (rule.table.action, rule.table.detect) == ("redact", ["keys"])
    assert rule.build_scope(holds_blocks=False) == InspectorScope(name="secrets", holds_blocks=False)


def test_a_service_has_an_address_and_a_key(tmp_path: Path) -> None:
    text = f"""{SERVICE}base_url = "https://Guard.test/api/"
        api_key = {{ env = "GUARD_KEY" }}
        reads = ["requests", "replies", "tool descriptions"]
        on_failure = "pass"
        timeout = 0.5
        max_characters = 1000
        parameters = {{ level = 3 }}"""
    settings = load(tmp_path, text, GUARD_KEY="guard-0123456789")
    (rule,) = settings.inspectors
    assert rule.key is not None
    assert (rule.base_url, rule.key.reveal(), rule.table.parameters) == (
        "https://guard.test/api",
        "guard-0123456789",
        {"level": 3},
    )
    assert "guard-0123456789" in settings.reveal_all_secrets()
    assert rule.build_scope(holds_blocks=True) == InspectorScope(
        name="guard",
        replies=True,
        tool_descriptions=True,
        timeout_seconds=0.5,
        max_characters=1_000,
        fails_open=True,
    )


MISTAKES = [
    (PATTERNS, "inspectors[0] finds nothing. Set detect or patterns. It is in ?, line 1."),
    (SERVICE, "inspectors[0].base_url is missing. Set it in ?, line 1."),
    (
        f'{SERVICE}base_url = "http://g.test"\ndetect = ["keys"]\nreads = []',
        'inspectors[0].detect has no effect for the type "guardrail". Remove it. It is in ?, line 5.\n'
        "inspectors[0].reads is empty: the inspector reads nothing. It is in ?, line 6.",
    ),
    (
        f'{PATTERNS}detect = ["keys"]\nsends = "all texts"',
        'inspectors[0].sends has no effect for the type "patterns". Remove it. It is in ?, line 5.',
    ),
    (
        f"{PATTERNS}patterns = {{ a = '.*?x', b = 'y*' }}",
        "inspectors[0].patterns.a is no pattern that can be used: *? is a lazy repetition. Name the characters in "
        "place of it: [^x]*. It is in ?, line 4.\n"
        "inspectors[0].patterns.b is no pattern that can be used: it matches the empty text. It is in ?, line 4.",
    ),
    (
        f'{PATTERNS}detect = ["keys"]\n{PATTERNS}detect = ["keys"]',
        'inspectors[1].name is "secrets", as that of another one. It is in ?, line 6.',
    ),
    (
        f'{SERVICE}base_url = "http://g.test"\napi_key = {{ env = "GUARD_KEY" }}',
        "GUARD_KEY is not set (inspectors[0].api_key in ?, line 5). Set it in .env or in the environment.",
    ),
    (
        f'{SERVICE}base_url = "http://g.test"\napi_key = "sk-0123456789"',
        "inspectors[0].api_key is a text, but this file must not contain keys. It is in ?, line 5. "
        'Put the key into .env as INSPECTORS_API_KEY=… and write  api_key = { env = "INSPECTORS_API_KEY" }',
    ),
    (
        f'{PATTERNS}detect = ["names"]',
        'inspectors[0].detect is "["names"]". Use a list, each item "card-numbers" or "keys". Set in ?, line 4.',
    ),
    (
        f'{PATTERNS}detect = ["keys"]\ntimeout = 20',
        'inspectors[0].timeout is "20". Use a number above 0 and up to 10. Set in ?, line 5.',
    ),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes_are_named_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    found = "\n".join(caught.value.messages).replace(str(tmp_path / "anthropic-proxy.toml"), "?")
    assert found == message
