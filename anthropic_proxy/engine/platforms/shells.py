"""Words of commands for the shells of users.

A stranger may have chosen a word, such as the name of a model in a list.
"""

import shlex
import sys
from collections.abc import Mapping
from typing import Literal

from anthropic_proxy.engine.patterns import compile_later

Shell = Literal["sh", "fish", "powershell", "cmd"]
_POWERSHELL_QUOTES = compile_later("['\u2018\u2019\u201a\u201b]")
"""Characters that end a quoted text (PowerShell, `CharTraits.IsSingleQuote`). Two of them stand for one."""
_CMD_ACTIVE = compile_later(r'([%^&|<>()!"])')
_CMD_QUOTABLE = compile_later(r'[^%!"]*')
"""Text in which quotes take away the meaning of all characters."""
_PLAIN = compile_later(r"[A-Za-z0-9_+:./-]+")
_QUOTE = "'"


def find_shell(environ: Mapping[str, str]) -> Shell:
    """Return the shell of the user. Without the variable SHELL: PowerShell on Windows, otherwise `sh`."""
    name = environ.get("SHELL", "").rpartition("/")[2]
    if not name and sys.platform == "win32":
        return "powershell"
    return "fish" if name == "fish" else "powershell" if name in {"pwsh", "powershell"} else "sh"


def quote_word(word: str, shell: Shell | None = None) -> str:
    """Return `word` as one word of a command line, which the shell takes literally. None: that of the system.

    In `cmd`, `^` stands before each character that has a meaning also in quotes. With it, `%NAME%` has the name of no
    variable (learn.microsoft.com, "cmd", read 2026-11-26).
    """
    shell = shell or ("powershell" if sys.platform == "win32" else "sh")
    if shell == "sh":
        return shlex.quote(word)
    if _PLAIN.fullmatch(word):
        return word
    if shell == "powershell":
        return f"'{_POWERSHELL_QUOTES.sub(lambda found: found[0] * 2, word)}'"
    if shell == "fish":
        return _quote_for_fish(word)
    return _quote_for_cmd(word)


def format_set_command(shell: Shell, name: str, value: str) -> str:
    """Return the command of `shell` that sets a variable for the programs that it starts afterwards."""
    if shell == "powershell":
        return f"$env:{name} = '{_POWERSHELL_QUOTES.sub(lambda found: found[0] * 2, value)}'"
    if shell == "cmd":
        return f"set {_quote_for_cmd(f'{name}={value}')}"
    if shell == "fish":
        return f"set -gx {name} {_quote_for_fish(value)}"
    return f"export {name}={shlex.quote(value)}"


def _quote_for_fish(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace(_QUOTE, f"\\{_QUOTE}")
    return f"'{escaped}'"


def _quote_for_cmd(text: str) -> str:
    return f'"{text}"' if _CMD_QUOTABLE.fullmatch(text) else _CMD_ACTIVE.sub(r"^\1", text)
