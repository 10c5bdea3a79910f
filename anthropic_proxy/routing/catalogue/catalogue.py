"""Keeps what is known about models, and asks those who know in the background."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from anthropic_proxy.routing.catalogue.facts import ModelFacts
from anthropic_proxy.routing.catalogue.table import find_in_table

FIRST_SECONDS = 1.0
"""How long the first request for a model waits for its facts; later ones never do."""
AGAIN_SECONDS = 300.0
"""Age from which on facts are asked for again, beside the request that uses them."""
RETRY_SECONDS = 5.0
"""Pause after a question that was not answered."""
LISTING_SECONDS = 60.0
"""The same for the list of models: people pull and remove some while we run."""

_MOST_REMEMBERED = 4096


class ModelSource(Protocol):
    """A provider that says itself what its models can do."""

    async def list_models(self) -> Sequence[str] | None:
        """Return the ids that it has, the largest model first; None: it does not answer."""
        ...

    async def describe(self, model: str) -> ModelFacts | None:
        """Return the facts of one model; None: it does not answer, or does not have it."""
        ...

    def assume(self, model: str, facts: ModelFacts) -> ModelFacts:
        """Return what holds of a model as long as it was not described; `facts` are those of the table."""
        ...


class Catalogue:
    """Looks models up; made anew at a reload.

    `listings`: provider name → the ids that it said it has, the largest model first; a provider that did not answer, or
    was not asked, is absent. `sources`: provider name → whom to ask about its models. `clock` gives seconds that only
    grow.
    """

    def __init__(
        self,
        listings: Mapping[str, Sequence[str]] | None = None,
        sources: Mapping[str, ModelSource] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        first_seconds: float = FIRST_SECONDS,
    ) -> None:
        self._listings = dict(listings or {})
        self._sources = sources or {}
        self._clock = clock
        self._first_seconds = first_seconds
        self._found: dict[tuple[str, str], ModelFacts] = {}
        """What was looked up, or told since."""
        self._told: set[tuple[str, str]] = set()
        self._untold: set[tuple[str, str]] = set()
        """Models whose provider was asked and said nothing: nobody waits for another question."""
        self._asked: dict[tuple[str, str], float] = {}
        """Provider and model (empty: the listing) → when the question was put."""
        self._questions: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.edition = 0
        """Grows with each answer of a provider: what was decided by an earlier one may no longer hold."""

    def listing(self, provider: str) -> Sequence[str] | None:
        """Return the ids that a provider said it has, the largest model first; None: it said nothing."""
        return self._listings.get(provider)

    def find(self, provider: str, model: str) -> ModelFacts:
        """Return what the provider said of a model, else the table's row with the longest matching start."""
        facts = self._found.get((provider, model))
        if facts is None:
            facts = find_in_table(provider, model)
            source = self._sources.get(provider)
            if source is not None:
                facts = source.assume(model, facts)
            if len(self._found) < _MOST_REMEMBERED:  # clients may ask for any name
                self._found[provider, model] = facts
        return facts

    def asks(self, provider: str) -> bool:
        """Whether a provider says itself what its models can do, so that it is worth to `learn`."""
        return provider in self._sources

    async def learn(self, provider: str, model: str) -> ModelFacts:
        """Return the facts of a model, after asking its provider if nobody has; waits a second at most."""
        self.study(provider, model)
        key = (provider, model)
        question = self._questions.get(key)
        if question is not None and key not in self._told and key not in self._untold:
            left = self._asked[key] + self._first_seconds - self._clock()
            if left > 0:
                await asyncio.wait((question,), timeout=left)
        return self.find(provider, model)

    def study(self, provider: str, model: str) -> None:
        """Ask in the background, where it is time, what a provider has and what this model of its can do."""
        source = self._sources.get(provider)
        if source is None:
            return
        if self._is_due((provider, ""), LISTING_SECONDS):
            self._ask((provider, ""), self.look(provider))
        key = (provider, model)
        if self._is_due(key, AGAIN_SECONDS if key in self._told else RETRY_SECONDS):
            self._ask(key, self._describe(source, provider, model))

    async def look(self, provider: str) -> None:
        """Ask a provider which models it has; what it does not say stays as it was."""
        source = self._sources.get(provider)
        if source is None:
            return
        self._asked[provider, ""] = self._clock()
        listed = await source.list_models()
        if listed is not None:
            self._listings[provider] = tuple(listed)
            self.edition += 1

    async def close(self) -> None:
        """Give up every question under way."""
        questions = list(self._questions.values())
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)

    async def _describe(self, source: ModelSource, provider: str, model: str) -> None:
        facts = await source.describe(model)
        if facts is None:
            self._untold.add((provider, model))
        else:
            self._found[provider, model] = facts
            self.edition += 1
            self._told.add((provider, model))

    def _is_due(self, key: tuple[str, str], seconds: float) -> bool:
        if key in self._questions:
            return False
        asked = self._asked.get(key)
        if asked is None:
            return len(self._asked) < _MOST_REMEMBERED
        return self._clock() - asked >= seconds

    def _ask(self, key: tuple[str, str], question: Coroutine[Any, Any, None]) -> None:
        self._asked[key] = self._clock()
        task = self._questions[key] = asyncio.create_task(question)
        task.add_done_callback(lambda _: self._questions.pop(key, None))


def load_catalogue(
    ollama_models: Sequence[str] | None = None, sources: Mapping[str, ModelSource] | None = None
) -> Catalogue:
    """Return what is known at start; `ollama_models`: what Ollama has, the largest first, None: it was not asked."""
    return Catalogue({} if ollama_models is None else {"ollama": tuple(ollama_models)}, sources)
