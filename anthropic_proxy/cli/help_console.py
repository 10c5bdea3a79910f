"""Console of the help: it has the colors of the user's theme, so that it can be read in light and dark terminals."""

from typing import Any

from rich.console import Console
from rich.style import Style

_STYLES = {
    "markdown.code": "cyan",
    **dict.fromkeys(("cyclopts.choices", "cyclopts.env_var", "cyclopts.default"), "dim"),
}
"""Name of a style of the libraries → style instead. Theirs are a black background and fixed shades of grey."""


class HelpConsole(Console):
    """A theme would not do: cyclopts puts the default theme above that of a console."""

    def get_style(self, name: str | Style, *, default: Any = None) -> Style:
        return super().get_style(_STYLES.get(name, name) if isinstance(name, str) else name, default=default)
