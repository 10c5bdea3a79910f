"""Words of commands for the shells of users.

A stranger may have chosen a word, such as the name of a model in a list.
"""

import shlex
import sys
from collections.abc import Mapping
from typing import Literal

from anthropic_proxy.engine.patterns import compile_anchored, compile_later

Shell = Literal["sh", "fish", "powershell", "cmd"]
"""Family of shells with the same syntax. `sh` includes bash and zsh."""
_POWERSHELL_QUOTES = compile_later("['\u2018\u2019\u201a\u201b]")
"""Characters that end a quoted text (PowerShell, `CharTraits.IsSingleQuote`). Two of them stand for one."""
_CMD_ACTIVE = compile_later(r'([%^&|<>()!"])')
_CMD_QUOTABLE = compile_anchored(r'[^%!"]*')
"""Text in which quotes take away the meaning of all characters."""
_PLAIN = compile_anchored(r"[A-Za-z0-9_+:./-]+")


def find_shell(environ: Mapping[str, str]) -> Shell:
    """Return the shell of the user. Without the variable SHELL: PowerShell on Windows, otherwise `sh`."""
    name = environ.get("SHELL", "").rpartition("/")[2]
    if not name and sys.platform == "win32":
        return "powershell"
    return "fish" if name == "fish" else "powershell" if name in {"pwsh", "powershell"} else "sh"


def quote_word(word: str, shell: Shell | None = None) -> str:
    """Return `word` as one word of a command line, which the shell takes literally. None: that of the system."""
    shell = shell or ("powershell" if sys.platform == "win32" else "sh")
    return word if _PLAIN.fullmatch(word) else _quote(word, shell)


def format_set_command(shell: Shell, name: str, value: str) -> str:
    """Return the command of `shell` that sets a variable for the programs that it starts afterwards."""
    match shell:
        case "powershell":
            return f"$env:{name} = {_quote(value, shell)}"
        case "cmd":
            return f"set {_quote(f'{name}={value}', shell)}"
        case "fish":
            return f"set -gx {name} {_quote(value, shell)}"
        case "sh":
            return f"export {name}={_quote(value, shell)}"


def _quote(text: str, shell: Shell) -> str:
    """In `cmd`, `^` stands before each character that has a meaning also in quotes. With it, `%NAME%` has the name of
    no variable (learn.microsoft.com, "cmd", read 2026-11-26).
    """
    match shell:
        case "powershell":
            return f"'{_POWERSHELL_QUOTES.sub(lambda found: found[0] * 2, text)}'"
        case "cmd":
            return f'"{text}"' if _CMD_QUOTABLE.fullmatch(text) else _CMD_ACTIVE.sub(r"^\1", text)
        case "fish":
            escaped = text.replace("\\", "\\\\").replace("'", "\\'")
            return f"'{escaped}'"
        case "sh":
            return shlex.quote(text)
