"""What providers say went wrong → our errors. Knows error texts and codes, which many servers share, but no wire."""

from anthropic_proxy.redaction import mask_keys
from anthropic_proxy.wire.failures.fault import Fault, decode_fault, read_fault
from anthropic_proxy.wire.failures.lessons import find_level, find_limit, find_room, find_window
from anthropic_proxy.wire.failures.verdict import blocked, is_policy_refusal, judge

__all__ = [
    "Fault",
    "blocked",
    "decode_fault",
    "find_level",
    "find_limit",
    "find_room",
    "find_window",
    "is_policy_refusal",
    "judge",
    "mask_keys",
    "read_fault",
]
