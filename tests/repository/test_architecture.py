"""The package obeys the rules of `architecture.py`, and each rule is shown to fail where it should."""

import re

import pytest

from tests.architecture import RULES, Rule, modules_of_the_package
from tests.support.paths import TESTS

MODULES = modules_of_the_package()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.check.__name__)
def test_the_package_obeys(rule: Rule) -> None:
    breaches = [
        f"  {module.name or '__init__'}, line {line}: {what}" for module in MODULES for line, what in rule.check(module)
    ]
    assert not breaches, "\n".join([rule.reason, *breaches])


def test_test_modules_share_code_in_support_modules() -> None:
    """An import of another test module runs its fixtures and parameters, and ties two subjects together."""
    found = [
        f"{path.relative_to(TESTS)}: {line}"
        for path in TESTS.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if re.match(r"\s*(from|import) tests\.(\w+\.)*test_", line)
    ]
    assert found == []
