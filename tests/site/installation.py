"""The commands of a checkout, as the pages show them: one place to change."""

SERVE = "python3 scripts/serve.py"
"""Installs the packages and serves."""
TEST = "python3 scripts/test.py"
"""Runs the tests."""
PROGRAM = ".venv/bin/anthropic-proxy"
"""The command of the proxy in a checkout."""
