"""`python -m anthropic_proxy`, and the command `anthropic-proxy`."""

from anthropic_proxy.platforms.signals import defer_sighup
from anthropic_proxy.platforms.standard_streams import open_missing_streams


def main() -> None:
    """Run the command line."""
    open_missing_streams()
    defer_sighup()  # before all that takes its time to load
    from anthropic_proxy.cli import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
