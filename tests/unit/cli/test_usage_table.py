"""Table of the command `usage` in a terminal."""

import os
import sys

import pytest

from anthropic_proxy.cli.usage import write_table
from anthropic_proxy.console.ledger.queries import UsageGroup
from anthropic_proxy.console.ledger.records import UsageSums
from anthropic_proxy.gateway.settings import Settings
from tests.support.terminal import read_output


def test_a_long_name_hides_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    pty = pytest.importorskip("pty", reason="platform: no terminals with signals")
    termios = pytest.importorskip("termios", reason="platform: no terminals with signals")
    monkeypatch.setenv("NO_COLOR", "1")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    groups = [
        UsageGroup(name=name, sums=UsageSums(requests=1, input_tokens=1_200, output_tokens=30, cost=2_000_000_000))
        for name in ("p" * 200, "shop")
    ]
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        write_table(Settings(), "project", groups, "since 24h")
        monkeypatch.undo()
    shown = "".join(iter(lambda: read_output(ours), ""))  # the terminal may deliver its output in pieces
    os.close(ours)
    lines = shown.replace("\r\n", "\n").splitlines()
    assert lines[2:6] == [
        f"  Project{' ' * 31}  Requests  Cached  Input  Output   Cost",
        f"  {'p' * 37}…         1       0  1,200      30  $2.00",
        f"  shop{' ' * 34}         1       0  1,200      30  $2.00",
        f"  all{' ' * 35}         2       0  2,400      60  $4.00",
    ]
