"""Recognition of provider errors by their text and codes, with one module for each kind of error.

The kinds are size, images, policy, quota and rejected parameters. A kind is recognized by typical words, so that
unknown error texts match too. Each search takes time proportional to the error text.
"""

from anthropic_proxy.wire.failures.kinds.images import (
    find_image_refusal,
    rejects_tool_result_content,
    rejects_tool_result_images,
)
from anthropic_proxy.wire.failures.kinds.policy import find_exhausted_quota, is_policy_refusal
from anthropic_proxy.wire.failures.kinds.sizes import (
    RATE_LIMIT_WORDS,
    KnownTokenCounts,
    find_token_limit_fault,
    names_full_context,
    reached_output_limit,
)

__all__ = [
    "RATE_LIMIT_WORDS",
    "KnownTokenCounts",
    "find_exhausted_quota",
    "find_image_refusal",
    "find_token_limit_fault",
    "is_policy_refusal",
    "names_full_context",
    "reached_output_limit",
    "rejects_tool_result_content",
    "rejects_tool_result_images",
]
