"""Classification of provider errors: converts HTTP status and error body to an `UpstreamError`.

`decode_error_body` decodes a response into an `UpstreamFault`. `build_upstream_error` converts it to the error for the
client. Between both, `read_own_words` leaves out what the text quotes of the request. The other functions detect one
cause in an error, such as a rejected parameter. They search tables of error texts and codes that several servers share.
"""

from anthropic_proxy.engine.wires.failures.classification import (
    PARAMETER_ERROR_STATUSES,
    build_call_error,
    build_upstream_error,
    find_rejected_parameter,
    find_replacement_effort,
    find_reply_end,
    rejects_developer_role,
    rejects_tool_result_content,
    rejects_tool_result_images,
)
from anthropic_proxy.engine.wires.failures.error_body import (
    UpstreamFault,
    begins_as_json,
    decode_error,
    decode_error_body,
    describe_text,
    find_bare_error,
    is_error_stated,
    read_bare_error,
    read_error_field,
    read_error_object,
    remove_wrappers,
    states_error,
)
from anthropic_proxy.engine.wires.failures.own_words import has_own_words, read_own_words
from anthropic_proxy.engine.wires.failures.sizes import KnownTokenCounts

__all__ = [
    "PARAMETER_ERROR_STATUSES",
    "KnownTokenCounts",
    "UpstreamFault",
    "begins_as_json",
    "build_call_error",
    "build_upstream_error",
    "decode_error",
    "decode_error_body",
    "describe_text",
    "find_bare_error",
    "find_rejected_parameter",
    "find_replacement_effort",
    "find_reply_end",
    "has_own_words",
    "is_error_stated",
    "read_bare_error",
    "read_error_field",
    "read_error_object",
    "read_own_words",
    "rejects_developer_role",
    "rejects_tool_result_content",
    "rejects_tool_result_images",
    "remove_wrappers",
    "states_error",
]
