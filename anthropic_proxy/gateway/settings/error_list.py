"""`ErrorList`: the errors of several settings, so that one run reports all of them.

`collect` catches the error of one setting. `require_empty` raises one error with all messages at the end.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from anthropic_proxy.errors import ConfigurationError


class ErrorList:
    """Error messages about settings, in the order in which the settings are read. Equal messages are kept once."""

    def __init__(self) -> None:
        self._messages: dict[str, None] = {}

    def __bool__(self) -> bool:
        """Return True if the list contains at least one message."""
        return bool(self._messages)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Return a context manager that catches a `ConfigurationError` and adds its messages to the list."""
        try:
            yield
        except ConfigurationError as error:
            self._messages |= dict.fromkeys(error.messages)

    def require_empty(self) -> None:
        """Raise one `ConfigurationError` with all messages of the list. Do nothing if the list is empty."""
        if self._messages:
            raise ConfigurationError(*self._messages)
