"""`SessionModelService`: shows what another model means for the own running sessions, and stores the choice."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from msgspec import Struct
from sqlalchemy import exc

from anthropic_proxy.console import formats
from anthropic_proxy.console.ledger.costs import ModelCosts
from anthropic_proxy.console.ledger.database import LEDGER_FAILURES, find_cause
from anthropic_proxy.console.ledger.reader_threads import ReaderThreads
from anthropic_proxy.console.session_models.choices import (
    ModelChange,
    OwnSession,
    SessionWish,
    build_change,
    list_own_sessions,
)
from anthropic_proxy.console.session_models.stored_choices import SessionKey, store_choices
from anthropic_proxy.console.session_models.table import REFRESH_SECONDS
from anthropic_proxy.engine.routing.choices import MAX_NAME_LENGTH
from anthropic_proxy.errors import InvalidRequest, ProxyBusy, UnknownModel
from anthropic_proxy.gateway.prices.price_list import PRICE_SOURCE
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, Gateway, ModelFeatures, SessionModel

ResultT = TypeVar("ResultT")
_MARGIN_SECONDS = 0.3
"""Time that a reading of a server may take."""
_RETRY_SECONDS = 2.0
_MAX_NAMED = 5


class Outcome(Struct, frozen=True, kw_only=True):
    """Sessions with what a choice means for each."""

    changes: Sequence[ModelChange] = ()
    """Empty for a choice that ends others."""
    sessions: Sequence[OwnSession] = ()
    is_stored: bool = False
    notice: str = ""
    """Sentence about the model. "": none."""


class SessionModelService:
    def __init__(
        self, gateway: Gateway[Settings], threads: ReaderThreads, clock: Callable[[], float] = time.time
    ) -> None:
        self._gateway = gateway
        self._threads = threads
        self._clock = clock

    async def list_sessions(self, client: Client, wish: SessionWish, reader: str) -> Sequence[OwnSession]:
        """`reader`: whose queries are limited together."""
        return await self._run(reader, list_own_sessions, self._gateway.settings, client, wish, self._clock())

    async def preview(self, client: Client, wish: SessionWish, model: str, reader: str) -> Outcome:
        """Raises the `ClientError` with which a request for the model would fail, and `UnknownModel` without a
        session.
        """
        if not model.strip() or len(model) > MAX_NAME_LENGTH or not model.isprintable():
            raise InvalidRequest(f"model is {model[:40]!r}. Use a name such as openai/gpt-5.5.", code="session-model")
        sessions = await self._require_sessions(client, wish, reader)
        features: dict[str, ModelFeatures] = {}
        for one in sessions:  # the rules of each key hold
            if one.client.id not in features:
                features[one.client.id] = await self._gateway.examine_model(model, one.client, one.session)
        present = [f"{one.prefix}/{one.model}" for one in sessions]
        kept = {one.model: one for one in await self._gateway.describe_models([*dict.fromkeys(present)], client.id)}
        changes = await self._run(reader, self._build_changes, sessions, features, kept)
        found = next(iter(features.values()))
        is_listed = any(entry.id.endswith(found.model) for entry in self._gateway.list_models())
        is_unknown = found.source == "assumed" and not found.other_sources and not is_listed
        notice = f"No list of models has {found.model}, so its server may not have it." if is_unknown else ""
        return Outcome(changes=changes, sessions=sessions, notice=notice)

    async def choose(
        self, client: Client, wish: SessionWish, model: str, reader: str, *, accepts_overflow: bool = False
    ) -> Outcome:
        """Raises as `preview`, and `InvalidRequest` if a conversation does not fit, unless this is accepted."""
        outcome = await self.preview(client, wish, model, reader)
        tight = next((change for change in outcome.changes if not change.fits), None)
        if tight is not None and not accepts_overflow:
            raise InvalidRequest(
                f"{tight.session.name}: {tight.describe_window()} With accept_overflow, it is used nevertheless.",
                code="session-model",
            )
        await self._store({one.key: SessionModel(model.strip(), one.requested) for one in outcome.sessions}, reader)
        return Outcome(changes=outcome.changes, sessions=outcome.sessions, is_stored=True, notice=outcome.notice)

    async def end(self, client: Client, wish: SessionWish, reader: str, *, is_preview: bool = False) -> Outcome:
        """End the choices of these sessions. Raises `UnknownModel` without a session."""
        sessions = await self._require_sessions(client, wish, reader)
        chosen = [one for one in sessions if one.chosen]
        if not is_preview:
            await self._store(dict.fromkeys(one.key for one in chosen), reader)
        return Outcome(sessions=chosen, is_stored=not is_preview)

    def _build_changes(
        self,
        sessions: Sequence[OwnSession],
        features: Mapping[str, ModelFeatures],
        kept: Mapping[str, ModelFeatures],
    ) -> Sequence[ModelChange]:
        PRICE_SOURCE.load()
        costs = ModelCosts(self._gateway.settings)
        return [
            build_change(one, features[one.client.id], kept.get(f"{one.prefix}/{one.model}"), costs) for one in sessions
        ]

    async def _require_sessions(self, client: Client, wish: SessionWish, reader: str) -> Sequence[OwnSession]:
        sessions = await self.list_sessions(client, wish, reader)
        for text in wish.sessions:
            if not any(one.session.startswith(text) for one in sessions):
                raise UnknownModel(
                    f"None of your sessions has an id that begins with {text[:40]!r}. A session is known after its "
                    "first reply.",
                    code="session-model",
                )
        if sessions:
            return sessions
        others = await self.list_sessions(client, SessionWish(), reader)
        place = f" in the project {wish.project}" if wish.project else ""
        text = f"No session of yours{place} has sent a request in the last hour."
        if others:
            named = "; ".join(
                f"{one.session} ({one.name}, {formats.ago(self._clock() - one.last_at)})" for one in others[:_MAX_NAMED]
            )
            text += f" Others: {named}."
        raise UnknownModel(f"{text} Name one by its id.", code="session-model")

    async def _store(self, choices: Mapping[SessionKey, SessionModel | None], reader: str) -> None:
        """Return when all servers plan with the choices."""
        if not choices:
            return
        await self._run(reader, store_choices, self._gateway.settings, choices, self._clock())
        await asyncio.sleep(REFRESH_SECONDS + _MARGIN_SECONDS)

    async def _run(self, reader: str, function: Callable[..., ResultT], *arguments: object) -> ResultT:
        try:
            return await self._threads.run(reader, partial(function, *arguments))
        except (*LEDGER_FAILURES, exc.SQLAlchemyError) as error:
            reason = str(find_cause(error)).splitlines()[0].rstrip(".")
            raise ProxyBusy(
                f"Nothing was changed, because the ledger cannot be used: {reason}.",
                retry_after=_RETRY_SECONDS,
                code="session-models-database",
            ) from None
