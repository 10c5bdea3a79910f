"""Command `anthropic-proxy health`: a check of the running proxy on this machine, for containers and scripts."""

import os

from anthropic_proxy.errors import ConfigurationError


def health() -> None:
    """Check whether a proxy answers on port PORT of this machine. Exit status 0: yes; 2: no. For containers."""
    from anthropic_proxy.cli.local_proxy import find_proxy  # noqa: PLC0415  # --help needs none of it
    from anthropic_proxy.routing.providers import PROVIDERS  # noqa: PLC0415
    from anthropic_proxy.settings import load_settings  # noqa: PLC0415

    settings = load_settings(os.environ, PROVIDERS)
    if find_proxy(settings) is None:
        raise ConfigurationError(f"No proxy responds on port {settings.port} (PORT) of this machine.")
