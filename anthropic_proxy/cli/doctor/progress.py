"""Progress of a long command on stderr: lines that are updated in a terminal, else a line from time to time."""

import asyncio
import sys
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from anthropic_proxy.cli.output import Output, escape_line

_WAITING_SECONDS = 10.0
"""Interval in seconds of the lines if stderr is no terminal."""


class Progress:
    """If stderr is no terminal or `shows_table` is False, lines of `describe_waiting` replace the updated ones."""

    def __init__(self, *, shows_table: bool) -> None:
        self._live: Live | None = None
        if shows_table and sys.stderr.isatty():
            console = Console(stderr=True, highlight=False)
            self._live = Live(console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, list_lines: Callable[[Output], Iterable[str]]) -> None:
        """Replace the lines in a terminal."""
        if self._live is not None:
            lines = map(escape_line, list_lines(Output(sys.stderr)))
            self._live.update(Text.from_ansi("\n".join(lines)))

    def describe_waiting(self) -> str:
        """Return the line that is written from time to time."""
        raise NotImplementedError

    async def report_unfinished(self, interval: float = _WAITING_SECONDS) -> None:
        """Write what is unfinished every `interval` seconds, unless a terminal shows it."""
        while self._live is None:
            await asyncio.sleep(interval)
            sys.stderr.write(f"{escape_line(self.describe_waiting())}\n")
            sys.stderr.flush()
