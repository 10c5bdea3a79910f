"""Kinds of provider errors, one module and table each: size, images, policy, quota.

A kind is recognized by its vocabulary and by the relation of the numbers, so that wordings outside the tables count.
Every function is pure and reads each text once, up to a bounded length.
"""

from anthropic_proxy.wire.failures.kinds.images import find_image_refusal, rejects_in_results
from anthropic_proxy.wire.failures.kinds.policy import is_policy_refusal
from anthropic_proxy.wire.failures.kinds.quota import find_quota
from anthropic_proxy.wire.failures.kinds.sizes import RATES, Known, find_shortage

__all__ = [
    "RATES",
    "Known",
    "find_image_refusal",
    "find_quota",
    "find_shortage",
    "is_policy_refusal",
    "rejects_in_results",
]
