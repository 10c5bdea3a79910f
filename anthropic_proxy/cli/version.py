"""Command `version`: prints the version of the program, as the option `--version` does."""

from anthropic_proxy import __version__


def version() -> None:
    print(f"anthropic-proxy {__version__}")
