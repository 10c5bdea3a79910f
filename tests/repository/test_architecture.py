"""The package obeys the rules of `architecture.py`, and each rule is shown to fail where it should."""

import pytest

from tests.architecture import RULES, Module, Rule, modules_of_the_package

MODULES = modules_of_the_package()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.check.__name__)
def test_the_package_obeys(rule: Rule) -> None:
    breaches = [
        f"  {module.name or '__init__'}, line {line}: {what}" for module in MODULES for line, what in rule.check(module)
    ]
    assert not breaches, "\n".join([rule.reason, *breaches])


@pytest.mark.parametrize(
    "source",
    [
        "import msgspec\ndef read(incoming):\n    return msgspec.json.decode(incoming.body, type=dict)",
        "import json\ndef read(body):\n    return json.loads(body)",
        "import msgspec\n_decode = msgspec.json.Decoder(dict).decode\ndef read(body):\n    return _decode(bytes(body))",
        "import msgspec\ndef read(raw):\n    return msgspec.json.decode(raw)",
    ],
)
def test_a_decoder_beside_the_reader_of_clients_is_found(source: str) -> None:
    module = Module("engine.exchange.new", source)
    assert [breach for rule in RULES for breach in rule.check(module)]
