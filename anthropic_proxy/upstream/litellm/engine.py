"""`LiteLLMThread`: a thread with its own event loop, in which the Python library LiteLLM runs.

LiteLLM may block, and would then delay the event loop that serves clients. `LiteLLMLibrary` has the imported functions.
`run_coroutine` runs a coroutine in the thread and waits for its result. `submit_coroutine` does not wait.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any, TypeVar

from msgspec import Struct

from anthropic_proxy.errors import MissingExtra

Result = TypeVar("Result")
"""Type variable: result of a coroutine."""


class LiteLLMLibrary(Struct, frozen=True):
    """The functions and classes of LiteLLM that the transport uses."""

    acompletion: Callable[..., Coroutine[Any, Any, Any]]
    """Async function of LiteLLM that sends a Chat Completions request."""
    base_exception: type[Exception]
    """Base class of LiteLLM's exceptions. LiteLLM inherits it from the OpenAI SDK."""


class LiteLLMThread:
    """The thread in which the library LiteLLM runs, with its event loop and the imported library.

    `export_variables` is a function that sets the environment variables of LiteLLM. It is called once, before LiteLLM
    is imported.
    """

    def __init__(self, export_variables: Callable[[], None]) -> None:
        self._export_variables = export_variables
        self._loop: asyncio.AbstractEventLoop | None = None
        self._library: LiteLLMLibrary | None = None

    async def run_coroutine(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the LiteLLM thread and return its result. If the caller is cancelled, so is the coroutine.

        Raises `RuntimeError` if the system has no thread left.
        """
        if self._loop is None:
            try:
                self._loop = _start_loop()
            except RuntimeError:
                work.close()
                raise
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def submit_coroutine(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine in the LiteLLM thread without waiting for it.

        Coroutines start in the order of the calls.
        """
        if self._loop is None:
            work.close()
        else:
            asyncio.run_coroutine_threadsafe(work, self._loop)

    def load_library(self, model: str) -> LiteLLMLibrary:
        """Import LiteLLM and return its functions. Call this in the LiteLLM thread.

        Raises `MissingExtra` if LiteLLM is not installed.
        """
        if self._library is None:
            self._export_variables()
            try:
                litellm, openai = import_module("litellm"), import_module("openai")
            except ModuleNotFoundError as error:
                if error.name != "litellm":
                    raise
                raise MissingExtra(
                    f"{model} needs LiteLLM (for a model on your own server, use openai/{model})", "litellm"
                ) from None
            _set_options(litellm)
            self._library = LiteLLMLibrary(litellm.acompletion, openai.OpenAIError)
        return self._library

    async def close(self) -> None:
        """Cancel all coroutines in the LiteLLM thread and end the thread."""
        if self._loop is not None:
            await self.run_coroutine(_cancel_others())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None


def _start_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop that runs in a new thread."""
    loop = asyncio.new_event_loop()
    try:
        threading.Thread(target=loop.run_forever, name="litellm", daemon=True).start()
    except RuntimeError:
        loop.close()
        raise
    return loop


def _set_options(library: Any) -> None:
    """Set the global options of LiteLLM: no telemetry, callbacks, cache or printed advice."""
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


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
