"""Command `version`: prints the version of the program, as the option `--version` does."""

from anthropic_proxy import __version__
from anthropic_proxy.cli.output import Output


def version() -> None:
    Output().write_line(f"anthropic-proxy {__version__}")
