"""Entry point of `python -m anthropic_proxy` and of the installed command `anthropic-proxy`."""

from anthropic_proxy.platforms.signals import defer_sighup
from anthropic_proxy.platforms.standard_streams import open_missing_streams


def main() -> None:
    """Prepare standard streams and signals, then run the command line. An error ends the process with status 2."""
    open_missing_streams()
    defer_sighup()  # before the slow imports of the command line, during which a signal may arrive
    from anthropic_proxy.cli import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
