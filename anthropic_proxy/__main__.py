"""`python -m anthropic_proxy`, and the command `anthropic-proxy`."""

from anthropic_proxy.signals import hold_back


def main() -> None:
    """Run the command line."""
    hold_back()  # before all that takes its time to load
    from anthropic_proxy.cli import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
