"""Tables and labeled texts in a narrow terminal: no word is divided, and no row loses what it says."""

import os
from collections.abc import Callable

import pytest

from anthropic_proxy.cli.output import Column, Output
from tests.support.terminal import read_output

FOLDER = "/home/user/.config/anthropic-proxy/anthropic-proxy.toml"


def show(monkeypatch: pytest.MonkeyPatch, width: int, write: Callable[[Output], None]) -> list[str]:
    pty = pytest.importorskip("pty", reason="platform: no terminals with signals")
    termios = pytest.importorskip("termios", reason="platform: no terminals with signals")
    monkeypatch.setenv("NO_COLOR", "1")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, width))
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        write(Output(terminal))
    shown = "".join(iter(lambda: read_output(ours), ""))
    os.close(ours)
    return shown.replace("\r\n", "\n").splitlines()


def test_a_label_is_above_its_text_if_there_is_no_room_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(output: Output) -> None:
        output.write_labeled("rule", f"opus is MODEL_OPUS ({FOLDER} line 3)", 11)
        output.write_labeled("cost", "free", 11)

    assert show(monkeypatch, 60, write) == [
        "    rule       opus is MODEL_OPUS",
        f"               ({FOLDER}",
        "               line 3)",
        "    cost       free",
    ]
    assert show(monkeypatch, 40, write) == [
        "    rule",
        "      opus is MODEL_OPUS",
        f"      ({FOLDER}",
        "      line 3)",
        "    cost       free",
    ]


def test_a_table_for_which_one_column_has_room_has_the_second_one_below(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [Column("Requested model"), Column("Sent to", can_be_cut=True), Column("Context", is_number=True)]
    rows = [["sonnet, opus, fable", "groq/openai/gpt-oss-120b", "131,072"], ["haiku", "demo/demo", "128,000"]]

    def write(output: Output) -> None:
        output.write_table(columns, rows)

    assert show(monkeypatch, 60, write) == [
        "  Requested model      Sent to                   Context",
        "  sonnet, opus, fable  groq/openai/gpt-oss-120b  131,072",
        "  haiku                demo/demo                 128,000",
    ]
    assert show(monkeypatch, 24, write) == [
        "  Requested model",
        "    Sent to",
        "  sonnet, opus, fable",
        "    groq/openai/gpt-oss-120b",
        "  haiku",
        "    demo/demo",
    ]
