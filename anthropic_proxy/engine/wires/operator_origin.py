"""`OperatorOrigin`, which allows a request to any server, because the settings name its address.

`.importlinter` lists the modules that may import this one. None of them sends a request because of a client: such a
request has the origin of its client.
"""

from msgspec import Struct

from anthropic_proxy.engine.wires.purposes import OperatorPurpose


class OperatorOrigin(Struct, frozen=True):
    """The operator of the proxy: its settings and commands."""

    purpose: OperatorPurpose

    def require_allowed(self, server: str, model: str) -> None:
        """The settings name the address."""
