"""`FailedPanel`: what a page shows in place of a panel that cannot be built."""

from msgspec import Struct


class FailedPanel(Struct, frozen=True):
    message: str
