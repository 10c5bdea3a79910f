"""Output of commands: data on stdout, in colors and as wide as the terminal, or tab-separated in a pipe."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.log import Log
from anthropic_proxy.log.lines import escape_unprintable, to_ascii_symbols

_GAP = "  "


class Column(Struct, frozen=True):
    """Column of a table: its title, and the alignment and color of its cells."""

    title: str
    is_number: bool = False
    """True if cells are aligned to the right."""
    role: str = ""
    """Color role of `Log.paint`. "": no color."""


class Output:
    """Standard output of a command. Colors and symbols follow the same rules as the log."""

    def __init__(self) -> None:
        self._style = Log(sys.stdout)
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self._has_symbols = "utf" in encoding.lower()
        self.is_terminal = sys.stdout.isatty()
        """True if a person reads the output. False: a program does."""

    def paint(self, text: str, role: str) -> str:
        """Return a text in the color of its role, as `Log.paint`; unchanged if the output has no colors."""
        return self._style.paint(text, role)

    def write_line(self, text: str = "") -> None:
        """Write one line to stdout."""
        sys.stdout.write((text if self._has_symbols else to_ascii_symbols(text)) + "\n")

    def write_json(self, value: Any) -> None:
        """Write a value as indented JSON."""
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")

    def write_table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        """Write a table. Each row has one cell per column.

        On a terminal, columns are aligned, and the rightmost columns that do not fit are omitted. In a pipe, cells are
        separated by tabs, and no column is omitted. Control characters in cells are escaped.
        """
        rows = [[escape_unprintable(cell) for cell in row] for row in rows]
        titles = [column.title for column in columns]
        if not self.is_terminal:
            for row in (titles, *rows):
                self.write_line("\t".join(row))
            return
        widths = [max(map(len, cells)) for cells in zip(titles, *rows, strict=True)]
        shown = _count_fitting(widths, self._style.terminal_width)
        self.write_line(self._format_row(columns[:shown], widths, titles, "quiet"))
        for row in rows:
            self.write_line(self._format_row(columns[:shown], widths, row, ""))

    def _format_row(self, columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str], role: str) -> str:
        """Return one line of a table. `role`: color of all cells; "": the color of each column."""
        line = [
            self.paint(cell.rjust(width) if column.is_number else cell.ljust(width), role or column.role)
            for column, width, cell in zip(columns, widths, cells, strict=False)
        ]
        return f"{_GAP}{_GAP.join(line)}".rstrip()


def _count_fitting(widths: Sequence[int], limit: int | None) -> int:
    """Return the number of columns, at least one, that fit into a line. `limit`: characters; None: no limit."""
    used = 0
    for count, width in enumerate(widths):
        used += len(_GAP) + width
        if limit is not None and used > limit:
            return max(count, 1)
    return len(widths)


def shorten_home(path: str, environ: Mapping[str, str]) -> str:
    """Return a path with `~` in place of the user's home directory."""
    home = environ.get("HOME") or environ.get("USERPROFILE") or ""
    return f"~{path[len(home) :]}" if home and path.startswith(home) else path
