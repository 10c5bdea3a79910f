"""Questions of a command to its user: choices by arrow keys in a terminal, by number or name elsewhere.

`open_questions` returns the form for the present standard streams. A pipe answers with one line for each question. A
user who presses Ctrl+C raises `KeyboardInterrupt`, and the end of the input raises `EOFError`.
"""

import re
import sys
from collections.abc import Sequence
from getpass import getpass
from typing import Protocol

import questionary
from msgspec import Struct

from anthropic_proxy.cli.output import Output
from anthropic_proxy.engine.platforms.program import name_program
from anthropic_proxy.errors import ConfigurationError, find_similar_choice
from anthropic_proxy.gateway.settings import copy_environment
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable
from anthropic_proxy.secrets import redact_secrets

MAX_LISTED_OPTIONS = 60
"""Maximum number of options that are printed as lines. Others can be named too."""
_GAPS = re.compile(r" {2,}")
_POINTED = " ❯ "
"""Beginning of the line of an option."""
_SEARCHED = 8
"""Number of options from which the user can type a part of one to find it."""
_STYLE = questionary.Style(
    [
        *(("qmark", "fg:ansicyan bold"), ("question", "bold"), ("answer", "fg:ansicyan")),
        *(("pointer", "fg:ansicyan bold"), ("highlighted", "fg:ansicyan"), ("instruction", "fg:ansibrightblack")),
        *(("search_success", "fg:ansigreen"), ("search_none", "fg:ansired"), ("selected", "noreverse")),
    ]
)


class Option(Struct, frozen=True):
    name: str
    """Word that the user can type, and result of the question."""
    label: str = ""
    """Text in the list. "": the name."""
    note: str = ""
    """Text beside it, in a column of its own."""


class Questions(Protocol):
    def select(self, question: str, options: Sequence[Option], default: str = "") -> str:
        """Return the name of an option. `default`: its name; "": the first one."""
        ...

    def ask(self, question: str, default: str = "") -> str:
        """Return a text, which may be empty if there is no default."""
        ...

    def ask_secret(self, question: str) -> str:
        """Return a text that is not shown."""
        ...

    def confirm(self, question: str, *, default: bool) -> bool: ...


def open_questions(output: Output) -> Questions:
    moves_cursor = sys.platform == "win32" or copy_environment().get("TERM", "dumb") != "dumb"
    if moves_cursor and sys.stdin.isatty() and sys.stdout.isatty():
        return _TerminalQuestions(output)
    return _LineQuestions(output)


def _lay_out(options: Sequence[Option], columns: int | None) -> list[str]:
    """Return the text of each option, with its note in a common column if that fits into `columns`. None: no limit."""
    labels = [escape_unprintable(option.label or option.name) for option in options]
    width = max(map(len, labels))
    notes = [escape_unprintable(option.note) for option in options]
    rows = [f"{label:<{width}}  {note}".rstrip() for label, note in zip(labels, notes, strict=True)]
    if columns is None or max(map(len, rows)) <= columns:
        return rows
    return [f"{label}  {'  '.join(_GAPS.split(note.strip()))}" for label, note in zip(labels, notes, strict=True)]


class _TerminalQuestions:
    def __init__(self, output: Output) -> None:
        self._output = output

    def select(self, question: str, options: Sequence[Option], default: str = "") -> str:
        width = self._output.width
        choices = [
            questionary.Choice(text, value=option.name)
            for text, option in zip(_lay_out(options, width and width - len(_POINTED)), options, strict=True)
        ]
        has_search = len(options) >= _SEARCHED
        name = questionary.select(
            question,
            choices,
            default=next((choice for choice in choices if choice.value == default), None),
            instruction=f"(arrow keys, or type to search all {len(options)})" if has_search else "(arrow keys)",
            pointer="❯",
            use_jk_keys=False,
            use_search_filter=has_search,
            style=_STYLE,
            erase_when_done=True,  # the answer would be the whole line of the option
        ).unsafe_ask()
        chosen = next(option for option in options if option.name == name)
        paint = self._output.paint
        answer = paint(escape_unprintable(chosen.label or chosen.name), "type")
        self._output.write_line(f"{paint('?', 'type')} {paint(question, 'title')} {answer}")
        return chosen.name

    def ask(self, question: str, default: str = "") -> str:
        return str(questionary.text(question, default=default, style=_STYLE).unsafe_ask()).strip()

    def ask_secret(self, question: str) -> str:
        return str(questionary.password(question, style=_STYLE).unsafe_ask()).strip()

    def confirm(self, question: str, *, default: bool) -> bool:
        return bool(questionary.confirm(question, default=default, style=_STYLE).unsafe_ask())


class _LineQuestions:
    def __init__(self, output: Output) -> None:
        self._output = output
        self._is_terminal = sys.stdin.isatty()

    def select(self, question: str, options: Sequence[Option], default: str = "") -> str:
        self._output.write_line(f"  {question}")
        for number, text in enumerate(_lay_out(options[:MAX_LISTED_OPTIONS], None), 1):
            self._output.write_line(f"  {number:>3}  {text}")
        if (more := len(options) - MAX_LISTED_OPTIONS) > 0:
            self._output.write_line(f"       and {more} more")
        names = {option.label.lower(): option.name for option in options if option.label}
        names |= {option.name.lower(): option.name for option in options}
        preset = default if default in names.values() else options[0].name
        while True:
            answer = self._read(f"  Number or name [{preset}]: ") or preset
            if answer.lower() in names:
                return names[answer.lower()]
            if answer.isascii() and answer.isdecimal() and 1 <= int(answer) <= len(options):
                return options[int(answer) - 1].name
            nearest = find_similar_choice(answer.lower(), list(names))
            meant = f" Did you mean:  {names[nearest]}" if nearest else ""
            shown = redact_secrets(answer, ())  # the answer to a later question may be a key
            if not self._is_terminal:  # the next line answers another question
                raise ConfigurationError(
                    f'There is no terminal for questions. The answer "{shown}" is not in the list of: '
                    f"{question.rstrip('?')}.{meant or ' Use a number or a name of the list.'}",
                    code="init-without-terminal",
                )
            self._output.write_notice(f'"{shown}" is not in the list.{meant}', "✕", "error")

    def ask(self, question: str, default: str = "") -> str:
        return self._read(f"  {question}{f' [{default}]' if default else ''}: ") or default

    def ask_secret(self, question: str) -> str:
        if self._is_terminal:
            return getpass(f"  {question} (not shown): ").strip()
        return self._read(f"  {question} (not shown): ", is_shown=False)

    def confirm(self, question: str, *, default: bool) -> bool:
        answer = self._read(f"  {question} [{'Y/n' if default else 'y/N'}] ").lower()
        return answer in ("y", "yes") or (default and not answer)

    def _read(self, prompt: str, *, is_shown: bool = True) -> str:
        try:
            answer = input(name_program(prompt)).strip()
        except (EOFError, KeyboardInterrupt):
            self._output.write_line()
            raise
        if not self._is_terminal:  # a terminal shows the answer itself
            self._output.write_line(escape_unprintable(redact_secrets(answer, ())) if is_shown else "")
        return answer
