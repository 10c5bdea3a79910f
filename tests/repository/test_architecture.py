"""The package obeys the rules of `architecture.py`, and each rule is shown to fail where it should."""

import pytest

from tests.architecture import RULES, Rule, modules_of_the_package

MODULES = modules_of_the_package()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.check.__name__)
def test_the_package_obeys(rule: Rule) -> None:
    breaches = [
        f"  {module.name or '__init__'}, line {line}: {what}" for module in MODULES for line, what in rule.check(module)
    ]
    assert not breaches, "\n".join([rule.reason, *breaches])
