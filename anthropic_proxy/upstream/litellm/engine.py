"""LiteLLM on an event loop of its own, in a thread of its own.

Loading it takes seconds, and some of its providers compute, sign or wait where an event loop must not. Whatever it
does there, the loop that serves the clients goes on.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any, TypeVar

from msgspec import Struct

from anthropic_proxy.errors import UpstreamRefused

Result = TypeVar("Result")
_INSTALL = "pip install 'anthropic-proxy[litellm]'"


class Library(Struct, frozen=True):
    """What is used of LiteLLM."""

    complete: Callable[..., Coroutine[Any, Any, Any]]
    """`acompletion`."""
    failures: type[Exception]
    """What its exceptions derive from: it raises those of OpenAI's SDK, and its own below them."""


class Engine:
    """The thread, its loop and the library.

    `lend` puts what LiteLLM reads from the environment there; it is called once, before LiteLLM is loaded.
    """

    def __init__(self, lend: Callable[[], None]) -> None:
        self._lend = lend
        self._loop: asyncio.AbstractEventLoop | None = None
        self._library: Library | None = None

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do this in the engine's loop; who cancels the waiting cancels the work."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="litellm", daemon=True).start()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def leave(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this in the engine's loop, after what was asked for before; nobody waits for it."""
        if self._loop is None:
            work.close()
        else:
            asyncio.run_coroutine_threadsafe(work, self._loop)

    def load(self, model: str) -> Library:
        """Return the library; blocks while it is loaded the first time, so it is called in the engine's loop.

        Raises `UpstreamRefused` where it is not installed, as for a model that there is not: another target may do.
        """
        if self._library is None:
            self._lend()
            try:
                litellm, openai = import_module("litellm"), import_module("openai")
            except ModuleNotFoundError as error:
                if error.name != "litellm":
                    raise
                message = (
                    f"{model} goes through LiteLLM, which is not installed. Install it with {_INSTALL} and start the "
                    f"proxy again. If it is a model of your own server, ask for openai/{model}"
                )
                raise UpstreamRefused(message, status=404, kind="not_found_error", should_retry=False) from None
            _choose(litellm)
            self._library = Library(litellm.acompletion, openai.OpenAIError)
        return self._library

    async def close(self) -> None:
        """End the loop and with it the thread; work under way is cancelled."""
        if self._loop is not None:
            await self.run(_cancel_others())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None


def _choose(library: Any) -> None:
    """Set LiteLLM's switches as this project wants them."""
    library.telemetry = False
    library.callbacks, library.success_callback, library.failure_callback = [], [], []
    library.cache = None
    library.turn_off_message_logging = True
    library.disable_streaming_logging = True
    library.suppress_debug_info = True  # else it writes advice on stdout at every error
    # A parameter that a model does not take is refused, not dropped unseen: the wire learns from that and says so.
    library.drop_params = False
    # What a provider would refuse is put right: Claude takes no calls without signed reasoning while it reasons, and a
    # conversation that began at another provider has such calls. The limit on output comes down to the model's own.
    library.modify_params = True


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
