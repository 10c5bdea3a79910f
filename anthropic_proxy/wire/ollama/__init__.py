"""Ollama's own `/api/chat`.

Source: the structs and handlers of Ollama itself (its repository, `api/types.go` and `server/routes.go`, 2026-08), its
documentation (docs.ollama.com, 2026-11) and recorded answers.
"""

from typing import Literal

from anthropic_proxy.wire.ollama.adaptation import apply_adaptation, find_adaptation
from anthropic_proxy.wire.ollama.dialect import Dialect
from anthropic_proxy.wire.ollama.errors import decode_error
from anthropic_proxy.wire.ollama.request import encode_request
from anthropic_proxy.wire.ollama.stream import new_decoder

FRAMING: Literal["ndjson"] = "ndjson"

__all__ = ["FRAMING", "Dialect", "apply_adaptation", "decode_error", "encode_request", "find_adaptation", "new_decoder"]
