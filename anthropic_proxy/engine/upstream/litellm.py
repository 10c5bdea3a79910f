"""Optional transport that sends requests through the Python library LiteLLM.

It serves providers that this project does not support itself. LiteLLM may block, and would then delay the event loop
that serves clients. So it runs in a thread with its own event loop. The first request imports LiteLLM.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Mapping
from importlib import import_module
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.os_errors import clean_error_text
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.lookup import find_vendor_of_litellm
from anthropic_proxy.engine.upstream.http.dialer import is_public_address
from anthropic_proxy.engine.wires.bound_requests import BoundRequest
from anthropic_proxy.errors import MissingExtra, UpstreamUnreachable

Result = TypeVar("Result")


class LiteLLMLibrary(Struct, frozen=True):
    acompletion: Callable[..., Coroutine[Any, Any, Any]]
    base_exception: type[Exception]
    """LiteLLM inherits it from the OpenAI SDK."""


class LiteLLMThread:
    """`export_variables` sets the environment variables of LiteLLM. It is called once, before LiteLLM is imported."""

    def __init__(self, export_variables: Callable[[], None]) -> None:
        self._export_variables = export_variables
        self._loop: asyncio.AbstractEventLoop | None = None
        self._library: LiteLLMLibrary | None = None

    async def run_coroutine(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the thread. If the caller is cancelled, so is the coroutine. Raises `RuntimeError` if the
        system has no thread left.
        """
        if self._loop is None:
            loop = asyncio.new_event_loop()
            try:
                threading.Thread(target=loop.run_forever, name="litellm", daemon=True).start()
            except RuntimeError:
                loop.close()
                work.close()
                raise
            self._loop = loop
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def submit_coroutine(self, work: Coroutine[Any, Any, None]) -> None:
        """Coroutines start in the order of the calls."""
        if self._loop is None:
            work.close()
        else:
            asyncio.run_coroutine_threadsafe(work, self._loop)

    def load_library(self, model: str) -> LiteLLMLibrary:
        """Call this in the LiteLLM thread. Raises `MissingExtra` if LiteLLM is not installed."""
        if self._library is None:
            self._export_variables()
            try:
                litellm, openai = import_module("litellm"), import_module("openai")
            except ModuleNotFoundError as error:
                if error.name != "litellm":
                    raise
                prefix, _, name = model.partition("/")
                if (vendor := find_vendor_of_litellm(prefix, PROVIDERS)) is not None:
                    subject = model if prefix == vendor.name else f"{model}, here {vendor.name}/{name},"
                    raise MissingExtra(
                        f"{subject} needs the line [providers.{vendor.name}] in anthropic-proxy.toml "
                        f"and the key of {vendor.title} in {vendor.key_variable}, or else LiteLLM",
                        "litellm",
                    ) from None
                text = f"{model} needs LiteLLM (for a model on your own server, use openai/{model})"
                raise MissingExtra(text, "litellm") from None
            library: Any = litellm
            library.telemetry = False
            library.callbacks, library.success_callback, library.failure_callback = [], [], []
            library.cache = None
            library.turn_off_message_logging = True
            library.disable_streaming_logging = True
            library.suppress_debug_info = True  # otherwise it prints advice to stdout at every error
            # LiteLLM rejects unsupported parameters instead of dropping them. The wire then adapts and reports it.
            library.drop_params = False
            # LiteLLM repairs requests that a provider would reject. Claude with thinking rejects calls without signed
            # reasoning, such as calls from other providers. The output limit is lowered to the limit of the model.
            library.modify_params = True
            self._library = LiteLLMLibrary(litellm.acompletion, openai.OpenAIError)
        return self._library

    async def close(self) -> None:
        async def cancel_others() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        if self._loop is not None:
            await self.run_coroutine(cancel_others())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None


_ALWAYS: dict[str, Any] = {
    "num_retries": 0,  # `exchange` retries itself
    "max_retries": 0,
    "_skip_mcp_handler": True,  # the MCP gateway of LiteLLM must not handle tools of the client
}


def to_acompletion_arguments(body: bytes, timeout: float) -> dict[str, Any]:
    """`timeout` is the maximum time without data from the provider, in seconds."""
    arguments: dict[str, Any] = msgspec.json.decode(body)
    for message in arguments["messages"]:
        blocks = []
        for detail in message.pop("reasoning_details", None) or ():
            if "data" in detail and (detail["data"] or detail.get("signature")):
                blocks.append({"type": "redacted_thinking", "data": detail["data"]})
            elif signature := detail.get("signature"):
                blocks.append({"type": "thinking", "thinking": detail.get("text", ""), "signature": signature})
        if blocks:
            message["thinking_blocks"] = blocks
    return {**arguments, **_ALWAYS, "timeout": timeout}


class ReplyConverter:
    """Converts the Python objects that LiteLLM returns for one reply to JSON of Chat Completions. LiteLLM returns one
    object for a complete reply, or one object for each chunk of a stream.
    """

    def __init__(self) -> None:
        self._blocks = 0
        """Number of thinking blocks that are complete. It is the index of the current thinking block."""

    def convert_to_chat_completion(self, reply: Any) -> dict[str, Any]:
        # no warnings: the models of LiteLLM contain values that violate their annotations
        fields: dict[str, Any] = reply.model_dump(mode="json", exclude_none=True, warnings=False)
        for choice in fields.get("choices", ()):
            if native := (choice.get("provider_specific_fields") or {}).get("native_finish_reason"):
                choice["native_finish_reason"] = native
            message = choice.get("delta") or choice.get("message") or {}
            details = []
            for block in message.pop("thinking_blocks", None) or ():
                data, signature = block.get("data"), block.get("signature")
                detail: dict[str, Any] = {"index": self._blocks, "type": "reasoning.text"}
                if data:
                    detail |= {"type": "reasoning.encrypted", "data": data}
                else:
                    detail |= {"text": block.get("thinking") or "", **({"signature": signature} if signature else {})}
                details.append(detail)
                self._blocks += bool(data or signature)
            if details:
                message["reasoning_details"] = details
        return fields


class LiteLLMTransport:
    """Sender of requests by the library LiteLLM.

    `timeout` is the maximum time without data from a provider, in seconds.
    """

    def __init__(self, engine: LiteLLMThread, timeout: float) -> None:
        self._engine = engine
        self._timeout = timeout

    async def send(self, bound: BoundRequest) -> "LiteLLMResponse":
        """Raises `UpstreamUnreachable` if no provider replied, and `MissingExtra` if LiteLLM is not installed."""
        response = LiteLLMResponse(self._engine)
        try:
            await self._engine.run_coroutine(
                response.start_call(to_acompletion_arguments(bound.request.body, self._timeout))
            )
        except BaseException:
            await response.close()
            raise
        return response

    async def close(self) -> None:
        await self._engine.close()


class LiteLLMResponse:
    """Call `start_call` in the LiteLLM thread, the other methods in the caller's event loop."""

    body_received = False
    """LiteLLM does not report the end of a body before `read` returns it."""

    def __init__(self, engine: LiteLLMThread) -> None:
        self.status = 200
        self.headers: Mapping[str, str] = {}
        self._engine = engine
        self._library: LiteLLMLibrary | None = None
        self._converter = ReplyConverter()
        self._stream: Any = None
        self._first = b""
        self._ended = False

    async def start_call(self, arguments: dict[str, Any]) -> None:
        """Wait for the first chunk or the complete body. Raises `UpstreamUnreachable` if no provider replied."""
        library = self._library = self._engine.load_library(arguments["model"])
        try:
            reply = await library.acompletion(**arguments)
            if arguments.get("stream"):
                self._stream = reply
                self._first = await self._pull()
            else:
                self._first = _encode(self._converter.convert_to_chat_completion(reply))
                self._ended = True
        except library.base_exception as error:
            failure = decode_exception(error)
            if failure.connection_error is not None:
                raise failure.connection_error from error
            self.status, self.headers = failure.status, failure.headers
            self._first = encode_error_body(failure)
            self._ended = True

    async def read(self) -> bytes:
        if self._first or self._ended:
            first, self._first = self._first, b""
            return first

        async def pull() -> bytes:
            assert self._library is not None
            try:
                return await self._pull()
            except self._library.base_exception as error:
                self._ended = True
                return b"data: " + encode_error_body(decode_exception(error)) + b"\n\n"

        return await self._engine.run_coroutine(pull())

    async def close(self, *, wait_for_end: bool = False) -> None:
        async def end() -> None:
            stream, self._stream = self._stream, None
            if stream is not None:
                await stream.aclose()

        self._first, self._ended = b"", True
        self._engine.submit_coroutine(end())

    async def _pull(self) -> bytes:
        """Return LiteLLM's next chunk as a server-sent event. b"": the provider ended its stream early."""
        try:
            chunk = await anext(self._stream)
        except StopAsyncIteration:
            self._ended = True
            return b"data: [DONE]\n\n"
        # LiteLLM ends every stream with a finish reason, by default `stop`, also if the provider ended it early
        names = ("received_finish_reason", "intermittent_finish_reason")
        is_stated = not hasattr(self._stream, names[0]) or any(getattr(self._stream, name, None) for name in names)
        if not is_stated and any(choice.finish_reason for choice in chunk.choices):
            self._ended = True
            return b""
        return b"data: " + _encode(self._converter.convert_to_chat_completion(chunk)) + b"\n\n"


_CODES = {
    "ContextWindowExceededError": "context_length_exceeded",
    "ContentPolicyViolationError": "content_policy_violation",
    "UnsupportedParamsError": "unsupported_parameter",
}
"""Class name of an exception → error code of OpenAI. The HTTP status alone is ambiguous."""
_CONNECTION_ERRORS = {"APIConnectionError", "InternalServerError"}
"""Class names of exceptions that can mean a failed connection to the provider. They then have no response headers."""
_CLASSES = compile_later(r"\b(?:(?:litellm\.)?\w*(?:Error|Timeout|Exception)(?::| -)\s+)+")
_REFUSED_BY = compile_later(r"connection refused by \[?([\w.:%]+?)\]?:\d+\b")
_UNSUPPORTED = compile_later(r"does not support parameters: \[?'(\w+)'")
_ADVICE = compile_later(
    r"(?P<option>\bTo drop (?:these|it)\b)|\n ?Pass model as\b|\nTraceback \(most recent call last\)"
)
"""Pattern of the beginning of what is meant for programmers in error messages (options, functions, traceback)."""
_READ_CHARACTERS = 64_000
"""Number of characters at the beginning of an error text that are read."""


class LiteLLMFailure(Struct, frozen=True, kw_only=True):
    status: int
    error_object: dict[str, Any]
    """Error of the provider, with the fields `message`, `type`, `param` and `code` of OpenAI's errors."""
    headers: Mapping[str, str] = {}
    connection_error: UpstreamUnreachable | None = None
    """Error to raise if the connection failed. None: the provider replied."""


def decode_exception(error: Exception) -> LiteLLMFailure:
    inner = getattr(error, "original_exception", None)  # errors within a stream are wrapped
    if isinstance(inner, Exception) and hasattr(inner, "status_code"):
        error = inner
    classes = {kind.__name__ for kind in type(error).__mro__}
    text = _CLASSES.sub("", (getattr(error, "message", "") or str(error))[:_READ_CHARACTERS], count=1)
    if (advice := _ADVICE.search(text)) is not None:
        text = text[: advice.start()].rstrip()
        if advice["option"]:
            text = text.removesuffix(".")
    text = text.strip()
    error_object = _find_body(error, text)
    unsupported = _UNSUPPORTED.search(text)
    code = next((code for name, code in _CODES.items() if name in classes), None)
    status = getattr(error, "status_code", None)
    response = getattr(error, "response", None)
    found = getattr(error, "litellm_response_headers", None) or getattr(response, "headers", None) or {}
    headers = {str(name).lower(): str(value) for name, value in dict(found).items()}
    connection_error = None
    if not headers and classes & _CONNECTION_ERRORS:
        cause = clean_error_text(text)
        refused = _REFUSED_BY.search(cause)
        should_retry = False if refused and not is_public_address(refused[1]) else None
        connection_error = UpstreamUnreachable(cause, should_retry=should_retry)
    return LiteLLMFailure(
        status=status if isinstance(status, int) and 400 <= status < 600 else 500,
        error_object={
            "message": "" if text.startswith("<") else error_object.get("message") or text,  # an HTML page of a gateway
            "type": error_object.get("type"),
            "param": unsupported[1] if unsupported else error_object.get("param"),
            "code": code or error_object.get("code"),
        },
        headers=headers,
        connection_error=connection_error,
    )


def encode_error_body(failure: LiteLLMFailure) -> bytes:
    """The additional field `status_code` has the HTTP status."""
    return _encode({"error": {**failure.error_object, "status_code": failure.status}})


def _encode(value: dict[str, Any]) -> bytes:
    """LiteLLM reads replies by `json.loads`, so texts may have lone surrogates. Decoders read them as escapes."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def _find_body(error: Exception, text: str) -> dict[str, Any]:
    """Return the provider's error object, from the exception's `body` or from JSON in its message. {}: none."""
    body = getattr(error, "body", None)
    start = text.find("{")
    if not isinstance(body, dict) and start >= 0:
        try:
            body = msgspec.json.decode(text[start : text.rfind("}") + 1])
        except (msgspec.DecodeError, RecursionError):
            body = None
    if not isinstance(body, dict):
        return {}
    inner = body.get("error")
    error_object = inner if isinstance(inner, dict) else body
    return error_object if isinstance(error_object.get("message"), str) else {}
