"""Console of the help: it has the colors of the user's theme, so that it can be read in light and dark terminals."""

from typing import Any

from cyclopts.help import DefaultFormatter
from rich.console import Console, ConsoleOptions
from rich.style import Style

from anthropic_proxy.cli.command_table import COMMANDS, MAIN_EXAMPLES, MAIN_NOTES
from anthropic_proxy.engine.platforms.program import find_program_command, name_program
from anthropic_proxy.errors import PACKAGE

_STYLES = {
    "markdown.code": "cyan",
    **dict.fromkeys(("cyclopts.choices", "cyclopts.env_var", "cyclopts.default"), "dim"),
}
"""Name of a style of the libraries → style instead. Theirs are a black background and fixed shades of grey."""


class HelpConsole(Console):
    """Console that replaces styles by name. A theme of the console has no effect, because the one of cyclopts has
    precedence.
    """

    def get_style(self, name: str | Style, *, default: Any = None) -> Style:
        return super().get_style(_STYLES.get(name, name) if isinstance(name, str) else name, default=default)

    def print_examples(self, command: str) -> None:
        """Print examples at the end of the help of `command`, which are not divided, so that they can be copied."""
        row = COMMANDS.get(command)
        examples = MAIN_EXAMPLES if row is None else [("", line) for line in row.examples]
        self.print("\nExamples:\n")
        for purpose, line in examples:
            shown = name_program(line if PACKAGE in line else f"{PACKAGE} {line}")
            if purpose:
                self.print(f"  {purpose}:", markup=False, highlight=False)
            self.print(
                f"  {'  ' if purpose else ''}{shown}", style="cyan", soft_wrap=True, markup=False, highlight=False
            )
        if row is None:
            self.print(f"\n{MAIN_NOTES}", markup=False, highlight=False)


class HelpFormatter(DefaultFormatter):
    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        super().render_usage(console, options, str(usage).replace(PACKAGE, find_program_command(), 1))
