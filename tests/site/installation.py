"""The commands that install, start and test the proxy, as the pages show them: one place to change."""

import re

from tests.support.paths import ROOT

SERVE = "anthropic-proxy serve"
"""Serves, as an installed program."""
SERVE_CHECKOUT = "python3 scripts/serve.py"
"""Installs the packages of a checkout and serves."""
TEST = "python3 scripts/test.py"
"""Runs the tests."""
PROGRAM = ".venv/bin/anthropic-proxy"
"""The command of the proxy in a checkout."""


def find_install_command() -> str:
    """Return the first command of the README, which `tests/packages/test_readme.py` runs."""
    found = re.search(r"^```sh client\n(.*)\n```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert found
    return found[1]
