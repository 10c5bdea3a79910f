"""Questions of a command to its user: choices by arrow keys in a terminal, by number or name elsewhere.

`open_questions` returns the form for the present standard streams. A pipe answers with one line for each question. If
it ends before, `ConfigurationError` names the question, and `instead`, an option or setting that answers it. A user who
presses Ctrl+C raises `KeyboardInterrupt`, and one who ends the input `EOFError`.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from getpass import getpass

import questionary
from msgspec import Struct
from prompt_toolkit import Application
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import FormattedTextControl, HSplit, Layout, Window

from anthropic_proxy.cli.output import Output
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.program import name_program
from anthropic_proxy.errors import ConfigurationError, find_similar_choice
from anthropic_proxy.gateway.settings import copy_environment
from anthropic_proxy.gateway.telemetry.log.columns import count_columns, cut, pad, wrap_words
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable
from anthropic_proxy.secrets import redact_secrets

MAX_LISTED_OPTIONS = 60
"""Maximum number of options that are printed as lines. Others can be named too."""
_MORE = "more"
"""Name of the last line of a short list, which shows all options."""
_GAPS = compile_later(r" {2,}")
_SEARCHED = 8
"""Number of options above which the user is told that letters search."""
_POINTED = " ❯ "
"""Beginning of the line of the option that the keys point to."""
_OTHER = "   "
"""Beginning of the line of each other option."""
_STYLE = questionary.Style(
    [
        ("qmark", "fg:ansicyan bold"),
        ("question", "bold"),
        ("answer", "fg:ansicyan"),
        ("pointer", "fg:ansicyan bold"),
        ("highlighted", "fg:ansicyan"),
        ("instruction", "fg:ansibrightblack"),
    ]
)


class Option(Struct, frozen=True):
    name: str
    """Word that the user can type, and result of the question."""
    label: str = ""
    """Text in the list. "": the name."""
    note: str = ""
    """Text beside it, in a column of its own."""
    is_rest: bool = False
    """True for the option that stands for all that is not in the list. It is offered if a search finds nothing."""


Accepts = Callable[[str], bool]


class _Choice(Struct, frozen=True):
    question: str
    options: Sequence[Option]
    default: str
    listed: int
    instead: str
    accepts: Accepts | None

    def is_accepted(self, text: str) -> bool:
        # a key is no answer
        return self.accepts is not None and self.accepts(text) and redact_secrets(text, ()) == text


class Questions(ABC):
    has_person: bool
    """True if a person answers, and no pipe, in which each question of a documented order has its line."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def select(
        self,
        question: str,
        options: Sequence[Option],
        default: str = "",
        listed: int = 0,
        *,
        instead: str = "",
        accepts: Accepts | None = None,
    ) -> str:
        """Return the name of an option. `default`: its name; "": the first one.

        `listed`: number of options that are shown at first. Others are found by typing, or by the last line. 0: all.
        `accepts`: whether another typed text is an answer, which is returned as it is. None: no other text is.
        """
        return self._select(_Choice(question, options, default, listed, instead, accepts))

    @abstractmethod
    def _select(self, choice: _Choice) -> str: ...

    @abstractmethod
    def ask(self, question: str, default: str = "", *, instead: str = "") -> str:
        """Return a text, which may be empty if there is no default."""

    @abstractmethod
    def ask_secret(self, question: str, *, instead: str = "") -> str:
        """Return a text that is not shown."""

    @abstractmethod
    def confirm(self, question: str, *, default: bool, instead: str = "") -> bool: ...


def open_questions(output: Output) -> Questions:
    moves_cursor = sys.platform == "win32" or copy_environment().get("TERM", "dumb") != "dumb"
    if moves_cursor and sys.stdin.isatty() and sys.stdout.isatty():
        return _TerminalQuestions(output)
    return _LineQuestions(output)


def _lay_out(options: Sequence[Option], columns: int | None) -> list[str]:
    """Return the text of each option, with its note in a common column if that fits into `columns`. None: no limit."""
    labels = [escape_unprintable(option.label or option.name) for option in options]
    width = max(map(count_columns, labels))
    notes = [escape_unprintable(option.note) for option in options]
    rows = [f"{pad(label, width)}  {note}".rstrip() for label, note in zip(labels, notes, strict=True)]
    if columns is None or max(map(count_columns, rows)) <= columns:
        return rows
    # the column of the notes is where most of them fit; the other rows are written without gaps
    widths = sorted(columns - len("  ") - count_columns(note) for note in notes)
    width = min(width, widths[len(widths) // 4])
    texts = []
    for label, note in zip(labels, notes, strict=True):
        row = f"{pad(label, width)}  {note}".rstrip()
        if count_columns(label) > width or count_columns(row) > columns:
            row = cut(f"{label}  {'  '.join(_GAPS.split(note.strip()))}".rstrip(), columns)
        texts.append(row)
    return texts


class _TerminalQuestions(Questions):
    has_person = True

    def _select(self, choice: _Choice) -> str:
        picked = _List(choice, self._output.width).run()
        chosen = Option(picked) if isinstance(picked, str) else choice.options[picked]
        paint = self._output.paint
        answer = paint(escape_unprintable(chosen.label or chosen.name), "type")
        self._output.write_line(f"{paint('?', 'type')} {paint(choice.question, 'title')} {answer}")
        return chosen.name

    def ask(self, question: str, default: str = "", *, instead: str = "") -> str:
        return str(questionary.text(self._wrap(question), default=default, style=_STYLE).unsafe_ask()).strip()

    def ask_secret(self, question: str, *, instead: str = "") -> str:
        return str(questionary.password(self._wrap(question), style=_STYLE).unsafe_ask()).strip()

    def confirm(self, question: str, *, default: bool, instead: str = "") -> bool:
        return bool(
            questionary.confirm(self._wrap(question), default=default, auto_enter=False, style=_STYLE).unsafe_ask()
        )

    def _wrap(self, question: str) -> str:
        """The library divides words at the end of a line."""
        width = self._output.width
        return question if width is None else "\n  ".join(wrap_words(question, width - len("? ")))


_NO_ROW = -1


class _List:
    """Options below each other in a terminal: arrow keys move, and letters search all of them."""

    def __init__(self, choice: _Choice, width: int | None) -> None:
        self._choice = choice
        self._width = width
        self._options = choice.options
        self._texts = _lay_out(choice.options, width and width - len(_POINTED))
        self._searched = ""
        self._pointed = next((index for index, option in enumerate(self._options) if option.name == choice.default), 0)
        self._listed = max(choice.listed or len(self._options), self._pointed + 1)

    def run(self) -> int | str:
        """Return the index of the chosen option, or another text. It leaves nothing on the screen."""

        def enter(event: KeyPressEvent) -> None:
            if self._pointed < len(self._options) and self._pointed in self._find_rows():
                event.app.exit(result=self._pointed)
            elif self._takes_text():
                event.app.exit(result=self._searched.strip())
            elif not self._searched:  # the line that shows all options
                self._pointed = self._listed
                self._listed = len(self._options)

        def write(event: KeyPressEvent) -> None:
            if event.data.isprintable():
                self._search(self._searched + event.data)

        actions: Mapping[Sequence[Keys], Callable[[KeyPressEvent], None]] = {
            (Keys.Down, Keys.ControlN): lambda _: self._move(1),
            (Keys.Up, Keys.ControlP): lambda _: self._move(-1),
            (Keys.Enter,): enter,
            (Keys.Backspace,): lambda _: self._search(self._searched[:-1]),
            (Keys.ControlU, Keys.Escape): lambda _: self._search(""),
            (Keys.ControlW,): lambda _: self._search("".join(self._searched.rstrip().rpartition(" ")[:2])),
            (Keys.Any, Keys.BracketedPaste): write,
            (Keys.ControlC,): lambda event: event.app.exit(exception=KeyboardInterrupt()),
            (Keys.ControlD,): lambda event: event.app.exit(exception=EOFError()),
        }
        bound = KeyBindings()
        for keys, act in actions.items():
            for key in keys:
                bound.add(key, eager=key == Keys.Escape)(act)
        question = Window(FormattedTextControl(self._show_question), wrap_lines=True, dont_extend_height=True)
        rows = Window(FormattedTextControl(self._show_rows, focusable=True, show_cursor=False))
        layout = Layout(HSplit([question, rows]), focused_element=rows)
        app: Application[int | str] = Application(layout=layout, key_bindings=bound, style=_STYLE, erase_when_done=True)
        return app.run()

    def _find_rows(self) -> list[int]:
        """Return the indexes of the shown options, first those that begin with the searched text.

        The number of options stands for the line that shows all.
        """
        if not self._searched:
            more = [len(self._options)] if self._listed < len(self._options) else []
            return [*range(self._listed), *more]
        rest = (index for index, option in enumerate(self._options) if option.is_rest)
        return self._find_matches() or [*self._find_similar(), *rest]

    def _find_matches(self) -> list[int]:
        word = self._searched.lower()
        matches = list[tuple[bool, int]]()
        for index, option in enumerate(self._options):
            names = (option.name.lower(), option.label.lower())
            if any(word in name for name in names):
                matches.append((not any(name.startswith(word) for name in names), index))
        return [index for _, index in sorted(matches)]

    def _find_similar(self) -> list[int]:
        """Return the index of the option that a mistyped text may mean."""
        indexes = {
            name.lower(): index
            for index, option in enumerate(self._options)
            for name in (option.name, option.label)
            if name
        }
        nearest = find_similar_choice(self._searched.lower(), indexes)
        return [indexes[nearest]] if nearest else []

    def _takes_text(self) -> bool:
        return bool(self._searched) and not self._find_matches() and self._choice.is_accepted(self._searched.strip())

    def _move(self, step: int) -> None:
        if rows := self._find_rows():
            place = rows.index(self._pointed) + step if self._pointed in rows else min(step, 0)
            self._pointed = rows[place % len(rows)]

    def _search(self, text: str) -> None:
        self._searched = text
        rows = self._find_rows()
        if text and not self._find_matches():
            # Enter after a typing error must not choose what the user did not mean
            is_error = self._takes_text() or self._find_similar() or not rows
            self._pointed = _NO_ROW if is_error else rows[0]
        elif rows and (text or self._pointed not in rows):
            self._pointed = rows[0]

    def _show_question(self) -> StyleAndTextTuples:
        parts: StyleAndTextTuples = [("class:qmark", "?"), ("class:question", f" {self._choice.question} ")]
        if not self._searched:
            keys = "arrow keys, or type to search" if len(self._options) > _SEARCHED else "arrow keys"
            parts.append(("class:instruction", f"({keys})"))
        else:
            parts.append(("class:answer", escape_unprintable(redact_secrets(self._searched, ()))))
            if not self._find_matches():
                text = "no match, but similar:" if self._find_similar() else "no match: Esc or Ctrl-U clears"
                if self._takes_text():
                    text = "no match: Enter takes it as it is"
                elif self._pointed != _NO_ROW:
                    option = self._options[self._pointed]
                    text = f"no match: Enter takes {option.label or option.name}, Esc clears"
                parts.append(("class:instruction", f"   {text}"))
        style, text, *_ = parts[-1]
        if self._width is not None and sum(count_columns(part[1]) for part in parts) > self._width:
            parts[-1] = (style, f"\n  {text.strip()}")  # the terminal would divide a word
        return parts

    def _show_rows(self) -> StyleAndTextTuples:
        fragments: StyleAndTextTuples = []
        for index in self._find_rows():
            text = self._texts[index] if index < len(self._options) else f"{index - self._listed} more"
            if index == self._pointed:
                fragments += [("class:pointer", _POINTED), ("[SetCursorPosition]", ""), ("class:highlighted", text)]
            else:
                fragments.append(("", f"{_OTHER}{text}"))
            fragments.append(("", "\n"))
        return fragments[:-1]


class _LineQuestions(Questions):
    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self.has_person = sys.stdin.isatty()

    def _select(self, choice: _Choice) -> str:
        question = choice.question
        options = choice.options
        self._output.write_line(f"  {question}")
        listed = min(choice.listed or MAX_LISTED_OPTIONS, len(options))
        self._write_options(options, 0, listed)
        names = {option.label.lower(): option.name for option in options if option.label}
        names |= {option.name.lower(): option.name for option in options}
        preset = choice.default if choice.default in names.values() else options[0].name
        while True:
            answer = self._read(f"  Number or name [{preset}]: ", question, choice.instead) or preset
            if answer.lower() in names:
                return names[answer.lower()]
            if answer.lower() == _MORE or (answer == str(listed + 1) and listed < len(options)):
                self._write_options(options, listed, len(options))
                listed = len(options)
                continue
            if answer.isascii() and answer.isdecimal() and 1 <= int(answer) <= listed:
                return options[int(answer) - 1].name
            if not answer.isdecimal() and choice.is_accepted(answer):
                return answer
            nearest = find_similar_choice(answer.lower(), list(names))
            meant = f" Did you mean:  {names[nearest]}" if nearest else ""
            shown = redact_secrets(answer, ())  # the answer to a later question may be a key
            if not self.has_person:  # the next line answers another question
                raise ConfigurationError(
                    f'There is no terminal for questions. The answer "{shown}" is not in the list of: '
                    f"{question.rstrip('?')}.{meant or ' Use a number or a name of the list.'}",
                    code="init-without-terminal",
                )
            self._output.write_notice(f'"{shown}" is not in the list.{meant}', "✕")

    def _write_options(self, options: Sequence[Option], start: int, end: int) -> None:
        for number, text in enumerate(_lay_out(options[start:end], None), start + 1):
            self._output.write_line(f"  {number:>3}  {text}")
        if more := len(options) - end:
            self._output.write_line(f"  {end + 1:>3}  {more} more: type {_MORE}, or a name")

    def ask(self, question: str, default: str = "", *, instead: str = "") -> str:
        return self._read(f"  {question}{f' [{default}]' if default else ''}: ", question, instead) or default

    def ask_secret(self, question: str, *, instead: str = "") -> str:
        if self.has_person:
            return getpass(f"  {question} (not shown): ").strip()
        return self._read(f"  {question} (not shown): ", question, instead, is_shown=False)

    def confirm(self, question: str, *, default: bool, instead: str = "") -> bool:
        answer = self._read(f"  {question} [{'Y/n' if default else 'y/N'}] ", question, instead).lower()
        return answer in ("y", "yes") or (default and not answer)

    def _read(self, prompt: str, question: str, instead: str, *, is_shown: bool = True) -> str:
        try:
            answer = input(name_program(prompt)).strip()
        except (EOFError, KeyboardInterrupt) as error:
            self._output.write_line()
            if self.has_person or isinstance(error, KeyboardInterrupt):
                raise
            use = f" Use {instead}." if instead else ""
            raise ConfigurationError(
                "There is no terminal for questions. The input ends before the answer to: "
                f"{question.rstrip('?')}.{use}",
                code="init-without-terminal",
            ) from None
        if not self.has_person:  # a terminal shows the answer itself
            self._output.write_line(escape_unprintable(redact_secrets(answer, ())) if is_shown else "")
        return answer
