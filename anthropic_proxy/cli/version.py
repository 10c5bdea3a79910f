"""Command `version`: prints the version of the program, as the option `--version` does."""

from anthropic_proxy import __version__


def version() -> None:
    """Print the version of this program."""
    from anthropic_proxy.cli.output import Output  # noqa: PLC0415  # --help needs none of it

    Output().write_line(f"anthropic-proxy {__version__}")
