"""Tables and labeled texts in a narrow terminal: no word is divided, and no row loses what it says."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anthropic_proxy.cli.output import Column, Output, open_data_output
from anthropic_proxy.engine.platforms.program import find_program_command
from anthropic_proxy.errors import PACKAGE
from tests.support.terminal import read_output

FOLDER = "/home/user/.config/anthropic-proxy/anthropic-proxy.toml"


def show(
    monkeypatch: pytest.MonkeyPatch, width: int, write: Callable[[Output], None], encoding: str = "utf-8"
) -> list[str]:
    pty = pytest.importorskip("pty", reason="platform: no terminals with signals")
    termios = pytest.importorskip("termios", reason="platform: no terminals with signals")
    monkeypatch.setenv("NO_COLOR", "1")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, width))
    with os.fdopen(theirs, "w", encoding=encoding) as terminal:
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


def test_optional_columns_are_left_out_before_names_are_cut_to_a_few_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [Column(title, is_number=True, is_optional=True) for title in ("Cached", "Input", "Output")]
    columns = [Column("Session", can_be_cut=True), *tokens, Column("Cost", is_number=True)]
    rows = [
        ["Why does the checkout test fail?", "2.13 M", "0.27 M", "37.9 k", "$1.25"],
        ["checkout-api, 25 Nov, 11:13", "1.57 M", "0.26 M", "35.9 k", "$1.13"],
    ]

    def write(output: Output) -> None:
        output.write_table(columns, rows)

    assert show(monkeypatch, 60, write) == [
        "  Session                      Cached   Input  Output   Cost",
        "  Why does the checkout test…  2.13 M  0.27 M  37.9 k  $1.25",
        "  checkout-api, 25 Nov, 11:13  1.57 M  0.26 M  35.9 k  $1.13",
    ]
    assert show(monkeypatch, 50, write) == [
        "  Session                           Cached   Cost",
        "  Why does the checkout test fail?  2.13 M  $1.25",
        "  checkout-api, 25 Nov, 11:13       1.57 M  $1.13",
    ]


def test_a_table_gives_a_chinese_character_and_an_emoji_two_columns_each(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [Column("Session", can_be_cut=True), Column("Requests", is_number=True), Column("Cost", is_number=True)]
    rows = [
        ["为什么结账测试失败了？请修复它", "2", "$1.25"],
        ["🚀🚀 release the new version", "11", "$1.13"],
        ["cafe\u0301 menu", "3", "$0.10"],
    ]

    def write(output: Output) -> None:
        output.write_table(columns, rows)

    assert show(monkeypatch, 60, write) == [
        "  Session                         Requests   Cost",
        "  为什么结账测试失败了？请修复它         2  $1.25",
        "  🚀🚀 release the new version          11  $1.13",
        "  cafe\u0301 menu                              3  $0.10",
    ]
    assert show(monkeypatch, 42, write) == [
        "  Session                  Requests   Cost",
        "  为什么结账测试失败了？…         2  $1.25",
        "  🚀🚀 release the new v…        11  $1.13",
        "  cafe\u0301 menu                       3  $0.10",
    ]


def test_chinese_text_is_wrapped_between_its_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "账户余额不足，请先充值，然后重试 https://example.com/billing"

    def write(output: Output) -> None:
        output.write_labeled("error", text, 6)
        output.write_line(f"  ✕ {text}")

    assert show(monkeypatch, 42, write) == [
        "    error 账户余额不足，请先充值，然后重试",
        "          https://example.com/billing",
        "  ✕ 账户余额不足，请先充值，然后重试",
        "    https://example.com/billing",
    ]
    assert show(monkeypatch, 40, write) == [
        "    error 账户余额不足，请先充值，然后重",
        "          试 https://example.com/billing",
        "  ✕ 账户余额不足，请先充值，然后重试",
        "    https://example.com/billing",
    ]


def test_only_the_texts_of_the_program_name_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / PACKAGE
    program.touch()
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", "")
    find_program_command.cache_clear()

    def write(output: Output) -> None:
        output.write_table([Column("Session"), Column("Cost")], [["Explain anthropic-proxy code", "$1.25"]])
        output.write_line("Next:  anthropic-proxy code")

    shown = show(monkeypatch, 200, write)
    find_program_command.cache_clear()
    assert shown == [
        "  Session                       Cost",
        "  Explain anthropic-proxy code  $1.25",
        f"Next:  {program} code",
    ]


def test_a_column_that_wraps_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [Column("Setting"), Column("Value", wraps=True)]
    assert show(monkeypatch, 72, lambda output: output.write_table(columns, [["PORT", ""]])) == [
        "  Setting  Value",
        "  PORT",
    ]


def test_a_long_cell_is_wrapped_beside_the_other_columns_or_below_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = (Column("Setting"), Column("Value", wraps=True), Column("Source"))
    columns = [*texts, Column("Default", is_optional=True)]
    rows = [
        ["OPENAI_BASE_URL", "http://localhost:8010/v1", ".env line 2", "https://api.openai.com/v1"],
        ["models of [providers.a]", "google/gemini-2.5-pro, qwen/qwen3-coder, z-ai/glm-4.6", ".env line 9", "–"],
    ]

    def write(output: Output) -> None:
        output.write_table(columns, rows)

    assert show(monkeypatch, 72, write) == [
        "  Setting                  Value                             Source",
        "  OPENAI_BASE_URL          http://localhost:8010/v1          .env line 2",
        "  models of [providers.a]  google/gemini-2.5-pro,            .env line 9",
        "                           qwen/qwen3-coder, z-ai/glm-4.6",
    ]
    assert show(monkeypatch, 60, write) == [
        "  Setting                  Source",
        "    Value",
        "  OPENAI_BASE_URL          .env line 2",
        "    http://localhost:8010/v1",
        "  models of [providers.a]  .env line 9",
        "    google/gemini-2.5-pro, qwen/qwen3-coder, z-ai/glm-4.6",
    ]
    assert show(monkeypatch, 36, write) == [
        "  Setting",
        "    Value",
        "    Source",
        "  OPENAI_BASE_URL",
        "    http://localhost:8010/v1",
        "    .env line 2",
        "  models of [providers.a]",
        "    google/gemini-2.5-pro,",
        "    qwen/qwen3-coder, z-ai/glm-4.6",
        "    .env line 9",
    ]


def test_the_room_of_a_column_that_is_left_out_goes_to_the_one_that_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [Column("Project", can_be_cut=True), Column("Requests", is_number=True), Column("At " + "x" * 24)]
    rows = [["checkout-api-of-the-shop", "3", "–"]]
    assert show(monkeypatch, 40, lambda output: output.write_table(columns, rows)) == [
        "  Project                   Requests",
        "  checkout-api-of-the-shop         3",
    ]


def test_only_a_value_that_is_too_long_is_below_its_row_if_most_values_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [Column("Setting"), Column("Value", wraps=True), Column("Source")]
    rows = [["OTEL_SERVICE_NAME", "–", "default"], ["GEMINI_BASE_URL", "http://gateway.example/v1", ".env line 3"]]
    rows += [["LOG_LEVEL", "info", "default"], ["PORT", "18344, default 8082", ".env line 7"]]
    rows += [[name, "–", "default"] for name in ("PLUGINS", "REDIS_URL", "SEARCH_URL", "OIDC_ADMINS")]
    assert show(monkeypatch, 45, lambda output: output.write_table(columns, rows)) == [
        "  Setting            Value        Source",
        "  OTEL_SERVICE_NAME  –            default",
        "  GEMINI_BASE_URL                 .env line 3",
        "    http://gateway.example/v1",
        "  LOG_LEVEL          info         default",
        "  PORT               18344,       .env line 7",
        "                     default",
        "                     8082",
        "  PLUGINS            –            default",
        "  REDIS_URL          –            default",
        "  SEARCH_URL         –            default",
        "  OIDC_ADMINS        –            default",
    ]


FOREIGN = "a\x1b[2J\x1b]52;c;aGk=\x07\x9b8m\u202eb\x1b[36mc\x1b[0m\nd\te"
ESCAPED = "a\\x1b[2J\\x1b]52;c;aGk=\\x07\\x9b8m\\u202eb\x1b[36mc\x1b[0m{}d\te"


def test_a_line_has_no_control_but_the_colors_of_the_program() -> None:
    shown = io.StringIO()
    output = Output(shown)
    output.write_line(FOREIGN)
    output.write_quiet(FOREIGN)
    output.write_text(FOREIGN)
    assert shown.getvalue() == f"{ESCAPED}\n  {ESCAPED}\n".format("\\n", "\\n") + ESCAPED.format("\n")


def test_data_on_a_terminal_is_escaped_and_in_a_file_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, expected in ((io.StringIO(), FOREIGN), (Screen(), ESCAPED.format("\n"))):
        monkeypatch.setattr(sys, "stdout", stream)
        open_data_output().write(FOREIGN)
        assert stream.getvalue() == expected


def test_signs_of_several_letters_have_their_width_before_lines_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `LANG=C`."""

    def write(output: Output) -> None:
        output.write_line(f"{output.mark('✓')} opus → groq and sonnet → gemini")
        output.write_labeled("rule", "one → two and three, → four", 6)
        output.write_table([Column("Feature"), Column("Model", can_be_cut=True)], [["✓ works", "gpt-oss-120b-preview"]])
        output.write_table([Column("Feature"), Column("State")], [["✓", "on"], ["–", "off"]])

    assert show(monkeypatch, 30, write, "ascii") == [
        "ok opus -> groq and sonnet ->",
        "   gemini",
        "    rule",
        "      one -> two and three, ->",
        "      four",
        "  Feature   Model",
        "  ok works  gpt-oss-120b-pr...",
        "  Feature  State",
        "  ok       on",
        "  -        off",
    ]
