"""`anthropic-proxy health`: check a running proxy."""

import os

from anthropic_proxy.errors import ConfigurationError


def health() -> None:
    """Return exit status 0 if a proxy with these settings answers on this machine, else 2; for containers."""
    from anthropic_proxy.routing.providers import PROVIDERS  # noqa: PLC0415  # --help needs none of it
    from anthropic_proxy.settings import load_settings  # noqa: PLC0415
    from anthropic_proxy.upstream.health_probe import is_healthy  # noqa: PLC0415

    settings = load_settings(os.environ, PROVIDERS)
    if not any(is_healthy(host, settings.port, "/health") for host in dict.fromkeys(("127.0.0.1", settings.host))):
        raise ConfigurationError(f"No server responds on port {settings.port} (PORT) of this machine.")
