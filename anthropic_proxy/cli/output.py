"""Output of commands on stdout and stderr: in colors on a terminal, and as plain text in a pipe.

The color of a text is given by its role: ok, warn, error, quiet, type or title.
"""

import io
import itertools
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.advice import Problem
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.platforms.program import name_program
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings.environment import copy_environment, find_color_setting
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.log.columns import count_columns, cut, pad, wrap_text, wrap_words
from anthropic_proxy.gateway.telemetry.log.lines import (
    escape_all_but_colors,
    escape_terminal_controls,
    escape_unprintable,
    escape_unprintable_json,
    paint_commands,
    to_ascii_symbols,
)

_GAP = "  "
SIGN_ROLES = {"✓": "ok", "+": "ok", "~": "warn", "!": "warn", "✕": "error", "–": "quiet", "…": "quiet"}
"""Symbol before a text → its color role."""
_MIN_CUT = 24
"""Number of characters of a cut cell below which optional columns are left out, so that names remain different."""
_MIN_BESIDE_LABEL = 30
"""Number of characters beside a label below which the text is written below it."""


class Column(Struct, frozen=True):
    title: str
    is_number: bool = False
    """True: aligned to the right."""
    role: str = ""
    """Color role of the cells. "": no color."""
    can_be_cut: bool = False
    """True: long cells end with `…`, so that the numbers fit into the terminal."""
    wraps: bool = False
    """True: long cells have several lines, below their row if there is no room for a word beside the other columns. A
    table has one column at most that wraps or can be cut."""
    is_optional: bool = False
    """True: left out before other columns if the table does not fit into the terminal."""


class Output:
    """Writer for the output of a command to stdout, and for notices to stderr.

    `stream` replaces stdout. Colors and symbols are the same as in the log.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        color = find_color_setting(copy_environment())
        self._style = Log(self._stream, color=color)
        self._notice_style = Log(sys.stderr, color=color)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._has_symbols = "utf" in encoding.lower()
        self.is_terminal = self._stream.isatty()
        """True if the output is a terminal. False: it is a pipe or a file."""

    @property
    def width(self) -> int | None:
        """Width of the terminal in characters. None: not limited, because the output is no terminal."""
        return self._style.terminal_width

    @property
    def height(self) -> int | None:
        """Number of lines of the terminal. None: not limited, because the output is no terminal."""
        try:
            return os.get_terminal_size(self._stream.fileno()).lines or None if self.is_terminal else None
        except (OSError, ValueError):  # closed
            return None

    def paint(self, text: str, role: str) -> str:
        """If colors are off, `text` is returned unchanged."""
        return self._style.paint(text, role)

    def mark(self, sign: str) -> str:
        """Return the symbol of a line in its color."""
        return self.paint(sign, SIGN_ROLES[sign])

    def write_line(self, text: str = "") -> None:
        """Write a line, which is wrapped on a terminal like `wrap_text`."""
        self._write_wrapped(self._spell(name_program(text)))

    def write_quiet(self, text: str) -> None:
        """Write an indented line that matters less than the others."""
        self.write_line(f"{_GAP}{self.paint(text, 'quiet')}")

    def _write_wrapped(self, text: str) -> None:
        for line in wrap_text(text, self.width):
            self._write(line)

    def _write(self, line: str) -> None:
        self._stream.write(escape_line(line) + "\n")

    def _spell(self, text: str) -> str:
        """Return `text` with letters for symbols that the encoding of the output lacks. They may need more columns."""
        return text if self._has_symbols else to_ascii_symbols(text)

    def _cut(self, text: str, columns: int) -> str:
        if self._has_symbols or count_columns(text) <= columns:
            return cut(text, columns)
        return self._spell(cut(text, columns - 2))  # the mark of the end has three letters

    def write_text(self, text: str) -> None:
        """Write `text`, which has line ends of its own."""
        self._stream.write(escape_all_but_colors(text))

    def write_step(self, lead: str, command: str, purpose: str) -> None:
        """Write the command of a next step after `lead`, and its purpose beside it; on a narrow terminal, below it."""
        command, lead, purpose = name_program(command), self._spell(lead), self._spell(purpose)
        width = self.width or sys.maxsize
        line = f"{lead} {self.paint(command, 'type')}"
        indent = count_columns(lead) + 3
        shown = self.paint(purpose, "quiet")
        if count_columns(line) + 4 + count_columns(purpose) <= width:
            self._write(f"{line}    {shown}")
            return
        if count_columns(line) > width:
            self._write(lead.rstrip())
            line = f"{_GAP}{self.paint(command, 'type')}"
            indent = 4
        self._write(line)
        self._write(f"{' ' * indent}{shown}")

    def write_labeled(self, label: str, text: str, label_columns: int) -> None:
        """Write `label` and `text` beside it, wrapped on a terminal; on a narrow one, the text is below."""
        text = paint_commands(self._spell(escape_unprintable(text)), self.paint)
        width = self.width
        lead = f"    {self.paint(pad(self._spell(label), label_columns), 'quiet')}"
        if width is None or 4 + label_columns + count_columns(text) <= width:
            self._write(f"{lead}{text}")
            return
        further = " " * (4 + label_columns)
        if width - len(further) < _MIN_BESIDE_LABEL:
            self._write(lead.rstrip())
            lead = further = " " * 6
        for line in wrap_text(further + text, width):
            self._write(line if lead is further else lead + line.removeprefix(further))
            lead = further

    def write_notice(self, text: str, sign: str = "") -> None:
        """Write a notice to stderr, after all output so far. `sign`: symbol before it."""
        self._stream.flush()
        lead = f"{self._notice_style.paint(sign, SIGN_ROLES[sign])} " if sign else ""
        text = f"{_GAP}{lead}{paint_commands(escape_unprintable(text), self._notice_style.paint)}"
        for line in wrap_text(self._spell(text), self._notice_style.terminal_width):
            sys.stderr.write(escape_line(line) + "\n")

    def write_problems(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self.write_notice(problem.text, problem.sign)

    def write_json(self, value: Any) -> None:
        """Write `value` as indented JSON to stdout."""
        open_data_output().write(encode_printed_json(value, indent=2))

    def write_table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]], *, last_row_role: str = "") -> None:
        """Write a table with one cell per column in each of `rows`.

        On a terminal, long cells are wrapped or cut, bars get shorter, and columns that do not fit are left out: from
        the right, the optional ones first. If no two columns fit, a second one with texts is below the first. In a
        pipe, cells are complete and separated by tabs. `last_row_role` is the color of the last row, such as a total.
        """
        cells = [[self._spell(escape_unprintable(cell)) for cell in row] for row in rows]
        columns = [structs.replace(column, title=self._spell(column.title)) for column in columns]
        titles = [column.title for column in columns]
        if not self.is_terminal:
            for row in (titles, *cells):
                self._write("\t".join(row))
            return
        limit = sys.maxsize if self.width is None else self.width
        widths, shown, below = _lay_out(columns, cells, limit)

        def write_row(row: Sequence[str], role: str) -> None:
            texts = []
            long = list(below)
            for index in shown:
                lines = wrap_words(row[index], widths[index]) if columns[index].wraps else [row[index]]
                if columns[index].wraps and any(count_columns(line) > widths[index] for line in lines):
                    lines = [""]  # a word is too long for the column
                    long.append(index)
                texts.append(lines)
            for parts in itertools.zip_longest(*texts, fillvalue=""):
                line = []
                for index, part in zip(shown, parts, strict=True):
                    text = self._cut(part, widths[index]) if columns[index].can_be_cut else part
                    padded = text.rjust(widths[index]) if columns[index].is_number else pad(text, widths[index])
                    line.append(self.paint(padded, role or columns[index].role))
                if any(parts) or not below:
                    self._write_wrapped(f"{_GAP}{_GAP.join(line)}".rstrip())
            for index in long:
                for part in wrap_words(row[index], max(limit - 2 * len(_GAP), 1)) if row[index] else ():
                    self._write(f"{_GAP}{_GAP}{self.paint(part, role or columns[index].role)}")

        write_row(titles, "quiet")
        for number, row in enumerate(cells, 1):
            write_row(row, last_row_role if number == len(cells) else "")


def _lay_out(
    columns: Sequence[Column], cells: Sequence[list[str]], limit: int
) -> tuple[list[int], list[int], list[int]]:
    """Return the widths of all columns, the indexes of those that are beside each other, and of those below them.

    `limit` is the width of the terminal. The bars among `cells` get shorter.
    """
    complete = [
        max(map(count_columns, texts)) for texts in zip((column.title for column in columns), *cells, strict=True)
    ]
    widths = list(complete)
    shown = list(range(len(columns)))
    below = list[int]()

    def count_free(index: int, others: Sequence[int]) -> int:
        return limit - len(_GAP) - sum(len(_GAP) + widths[other] for other in others if other != index)

    bars = next((index for index in shown if columns[index].role == "bar"), len(columns))
    flexible = next((index for index in shown if columns[index].can_be_cut or columns[index].wraps), None)
    if flexible is not None:
        needed = _find_needed_width(columns[flexible], [row[flexible] for row in cells])
        free = count_free(flexible, range(bars))
        if free < min(needed, complete[flexible]):
            free = count_free(flexible, [index for index in range(bars) if not columns[index].is_optional])
        if columns[flexible].wraps and free < min(needed, complete[flexible]):
            below.append(flexible)
            shown.remove(flexible)
        else:
            least = needed if columns[flexible].wraps else max(limit // 5, count_columns(columns[flexible].title))
            widths[flexible] = min(complete[flexible], max(free, least))
    if (
        bars < len(columns)
        and count_columns(columns[bars].title) <= (room := count_free(bars, range(bars))) < widths[bars]
    ):
        for row in cells:
            row[bars] = row[bars][: -(-len(row[bars]) * room // widths[bars])]
        widths[bars] = room
    while len(shown) > 1 and count_free(shown[0], shown) < widths[shown[0]]:
        optional = [index for index in shown if columns[index].is_optional]
        if len(shown) == 2 and not columns[shown[1]].is_number:  # the first one says nothing without the second
            below.append(shown.pop())
        else:
            shown.remove(optional[-1] if optional else shown[-1])
    if flexible in shown:
        widths[flexible] = complete[flexible] if below else min(complete[flexible], count_free(flexible, shown))
    return widths, shown, sorted(below)


def _find_needed_width(column: Column, texts: Sequence[str]) -> int:
    """Return the width below which a column that can be cut or wraps is not beside the others."""
    if not column.wraps:
        return _MIN_CUT
    widths = sorted(map(count_columns, texts))
    words = (count_columns(word) for text in texts for word in text.split())
    # a few long words are below their rows, if most texts fit
    most = max(count_columns(column.title), widths[len(widths) * 2 // 3] if widths else 0)
    return min(max((_MIN_CUT, *words)), most)


def encode_printed_json(value: Any, indent: int = 0) -> str:
    """Return `value` as JSON, on one line unless there is an `indent`, with control characters escaped: programs print
    it on terminals. A `Decimal` becomes a number with all its digits.
    """
    encoded = msgspec.json.Encoder(decimal_format="number").encode(value)
    text = (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
    return "".join(f"{escape_unprintable_json(line)}\n" for line in text.split("\n"))


def escape_line(line: str) -> str:
    """Return one line for a terminal, whatever it contains: a text of a server may be a part of it."""
    return escape_all_but_colors(line).replace("\n", "\\n")


class _Terminal(io.TextIOBase):
    """A terminal for data: what it would obey is escaped. A program that reads data has no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(escape_all_but_colors(text))

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()


def open_data_output() -> TextIO:
    """Return stdout for texts that programs read, such as JSON and CSV: in UTF-8, with the line ends of the text.

    Text for people has the charset of the locale, which a terminal expects.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")
    return cast("TextIO", _Terminal(sys.stdout)) if sys.stdout.isatty() else sys.stdout


def write_errors(messages: Sequence[str]) -> None:
    log = Log(form="plain")
    style = Log(sys.stderr, color=find_color_setting(copy_environment()))
    for message in messages:
        text = f"{style.paint('✕', 'error')} {paint_commands(escape_terminal_controls(message), style.paint)}"
        log.write_line("\n".join(wrap_text(text, log.terminal_width)), level="error")
    log.flush()


STDIN = "-"
"""File name that means standard input."""


def read_input(file: Path, max_bytes: int) -> bytes:
    """Return the bytes of `file`, or of standard input for the name `-`.

    Raises `ConfigurationError` if the file cannot be read, or if there are more than `max_bytes`.
    """
    try:
        if str(file) == STDIN:
            name = "standard input"
            content = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with file.open("rb") as stream:  # a pipe is permitted: `<(command)` of a shell is one
                name = f'"{file}"'
                content = stream.read(max_bytes + 1)
    except OSError as error:
        raise ConfigurationError(
            f'"{file}" cannot be read: {describe_os_error(error)}. For standard input, use the name "-".',
            code="file-not-read",
        ) from None
    if len(content) > max_bytes:
        raise ConfigurationError(
            f"{name} has more than {max_bytes:,} bytes, the maximum of this command.", code="file-not-read"
        )
    return content


def describe_input(file: Path) -> str:
    return "standard input" if str(file) == STDIN else str(file)
