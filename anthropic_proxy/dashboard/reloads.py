"""Reload of the settings in all workers, after the dashboard has changed them: `reload_settings`."""

import asyncio

from anthropic_proxy.plugins import Gateway

_POLLS, _POLL_SECONDS = 20, 0.1


async def reload_settings(gateway: Gateway) -> bool:
    """Read the settings files again, in all workers. Return False if this server can read them only at its start."""
    before = gateway.settings
    is_reloaded = await gateway.reload_settings()
    for _ in range(_POLLS if is_reloaded else 0):  # other workers reload by a message
        if gateway.settings is not before:
            break
        await asyncio.sleep(_POLL_SECONDS)
    return is_reloaded
