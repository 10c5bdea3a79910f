"""Messages for the operator about failures of Redis, with cause and remedy.

`is_data_error` detects errors that concern only the keys of one command, such as a value of a wrong type, and
`describe_data_error` returns their message. All other `FAILURES` mean that Redis is unavailable, and `describe_failure`
returns their message.
"""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    DataError,
    InvalidResponse,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from anthropic_proxy.stores.redis import LostStateError
from anthropic_proxy.stores.redis.command_pipeline import REPLY_TIMEOUT_SECONDS

_CONNECTING = re.compile(r"^Error -?\d+ connecting to \S+ ")
"""Matches the beginning of a message of redis-py about a failed connection. Its number differs between systems."""
FAILURES = (RedisError, OSError, TimeoutError, LostStateError)
"""Exceptions that calls of Redis raise."""
_SCRIPT_END = re.compile(r" script:(?: \w+,)? on @\S+$")
"""Matches the end of an error message about a script: of Redis with the digest of the script, of Valkey without it."""
_MAX_NAMED_KEYS = 10
"""Maximum number of keys in a message about wrong data."""
_DATA_PROBLEM = re.compile(r"WRONGTYPE|not an integer|not a valid float|would overflow|user_script:\d+: attempt to ")
"""Matches error messages about the data of one key. Other errors, such as a full memory, concern all keys."""


def is_data_error(error: BaseException) -> bool:
    """Return True if `error` was caused by the data of single keys, such as a value of the wrong type.

    Redis itself is then available, and commands for other keys can succeed.
    """
    found = isinstance(error, ResponseError) and _DATA_PROBLEM.search(str(error))
    return isinstance(error, DataError) or bool(found)


def describe_data_error(error: BaseException, address: str, keys: Sequence[str]) -> str:
    """Return a message for the operator about `error`, which was caused by the data of some keys.

    `address` is the host and port of Redis.
    """
    text = _SCRIPT_END.sub("", " ".join(str(error).split())).rstrip(".")
    others = f" and {len(keys) - _MAX_NAMED_KEYS} others" if len(keys) > _MAX_NAMED_KEYS else ""
    named = ("one of " if len(keys) > 1 else "") + ", ".join(keys[:_MAX_NAMED_KEYS]) + others
    return f"Redis at {address} has wrong data for {named}: {text}. Delete the wrong data, or change REDIS_PREFIX."


def format_redis_address(url: str) -> str:
    """Return host and port in `url`, the value of `REDIS_URL`, without the password.

    For a Unix socket, return its path.
    """
    found = urlsplit(url)
    return found.path if found.scheme == "unix" else f"{found.hostname or 'localhost'}:{found.port or 6379}"


def describe_failure(error: BaseException, address: str) -> str:
    """Return a message for the operator about `error`, an exception of a Redis call.

    `address` is the host and port of Redis.
    """
    subject = f"Redis at {address}"
    text = _SCRIPT_END.sub("", _CONNECTING.sub("", " ".join(str(error).split()))).rstrip(".")
    match error:
        case LostStateError():
            return f"{subject} has lost its data."
        case AuthenticationError():
            return _describe_password(subject)
        case NoPermissionError():
            return _describe_permission(subject, text)
        case ReadOnlyError():
            return f"{subject} is a read-only replica. Set REDIS_URL to the primary server."
        case OutOfMemoryError():
            return f"{subject} has no memory left. Increase its setting maxmemory."
        case BusyLoadingError():
            return f"{subject} is still loading its data."
        case TimeoutError():
            return f"{subject} did not answer within {REPLY_TIMEOUT_SECONDS:g} s."
        case MovedError():
            return f"{subject} is a node of a cluster without these keys. Set REDIS_URL to {error.host}:{error.port}."
        case InvalidResponse():
            return f"{subject} sent a reply that cannot be decoded: {text}."
        case ResponseError():
            return _describe_response(subject, text)
        case _ if "timeout" in text.lower() or not text:
            return f"{subject} did not answer within {REPLY_TIMEOUT_SECONDS:g} s."
        case _:
            return f"{subject} cannot be reached: {text}. Start it, or correct REDIS_URL."


def _describe_response(subject: str, text: str) -> str:
    if "NOAUTH" in text or "WRONGPASS" in text or "without any password" in text or "Authentication" in text:
        return _describe_password(subject)
    if "OOM" in text:
        return f"{subject} has no memory left. Increase its setting maxmemory."
    if "READONLY" in text:
        return f"{subject} is a read-only replica. Set REDIS_URL to the primary server."
    if "can't run this command" in text or "has no permissions" in text:  # within a script
        return _describe_permission(subject, text)
    return f"{subject} reports an error: {text}."


def _describe_permission(subject: str, text: str) -> str:
    return f"{subject} rejects the user: {text}. Permit all commands for the keys, publish and subscribe."


def _describe_password(subject: str) -> str:
    return f"{subject} rejects the user or password. Correct them in REDIS_URL: redis://user:password@host:6379/0."
