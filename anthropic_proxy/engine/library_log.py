"""`LibraryLog`: the log of an engine in a program without a server."""

import logging
import traceback
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from anthropic_proxy.engine.hooks import LogLevel
from anthropic_proxy.errors import replace_quotes
from anthropic_proxy.secrets import redact_secrets

_MAX_ONCE_TEXTS = 10_000


class LibraryLog:
    """Log of an engine without a server: the logger `anthropic_proxy` of the module `logging`. It masks `secrets`."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        self._logger = logging.getLogger("anthropic_proxy")
        self._secrets = secrets
        self._written: set[str] = set()

    def write_once(self, text: str, level: LogLevel = "info") -> None:
        if text not in self._written and len(self._written) < _MAX_ONCE_TEXTS:
            self._written.add(text)
            self._logger.log(logging.getLevelNamesMapping()[level.upper()], "%s", redact_secrets(text, self._secrets))

    def write_warning(self, text: str) -> None:
        self._logger.warning("%s", redact_secrets(text, self._secrets))

    def write_traceback(self, request_id: str, quotes: Mapping[str, str] = MappingProxyType({})) -> None:
        text = redact_secrets(replace_quotes(traceback.format_exc(), quotes), self._secrets)
        self._logger.error("request %s failed\n%s", request_id, text)
