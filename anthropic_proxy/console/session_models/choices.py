"""The running sessions of a person, and what another model means for each: cost of the lost cache, window, rules."""

from collections.abc import Mapping, Sequence
from contextlib import closing

from msgspec import Struct, structs
from sqlalchemy import Connection, and_, func, or_, select

from anthropic_proxy.console import formats
from anthropic_proxy.console.ledger.costs import ModelCosts
from anthropic_proxy.console.ledger.database import open_for_reading
from anthropic_proxy.console.ledger.engines import EngineReader, read_ledger
from anthropic_proxy.console.ledger.read_access import MAX_READ_SECONDS, restrict_to_client
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.console.ledger.request_queries import build_stored_request, find_session_titles, value_condition
from anthropic_proxy.console.ledger.tables import former_labels, requests, virtual_keys
from anthropic_proxy.console.ledger.users import LedgerUser, find_client_user
from anthropic_proxy.console.session_models.stored_choices import SessionKey, read_choices
from anthropic_proxy.console.session_names import name_session
from anthropic_proxy.console.units import HOUR_SECONDS, MICROSECONDS
from anthropic_proxy.engine.messages.deltas import TokenCounts
from anthropic_proxy.engine.messages.purpose import CONVERSATION_KINDS
from anthropic_proxy.engine.options import LONG_CONTEXT_SUFFIX
from anthropic_proxy.engine.routing.routes import can_exceed
from anthropic_proxy.gateway.money import format_cost
from anthropic_proxy.gateway.prices.price_list import Price
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, ModelFeatures

RUNNING_SECONDS = HOUR_SECONDS
"""A session with a request in this time counts as running, if nobody names it."""
MAX_SESSIONS = 50
"""Maximum number of sessions that one choice concerns."""


class OwnSession(Struct, frozen=True, kw_only=True):
    """A session whose requests have one of the person's own keys."""

    client: Client
    session: str
    project: str
    last_at: float
    """Start of its last request, in seconds since the epoch."""
    requested: str
    """Model id that its client requests for the conversation."""
    prefix: str
    model: str
    """The model that replied last."""
    tokens: int
    """Tokens of the conversation after the last reply, which the next request contains."""
    title: str = ""
    """Title that the client asked for. "": none is stored."""
    chosen: str = ""
    """Model that was chosen for it. "": none."""

    @property
    def key(self) -> SessionKey:
        return self.client.id, self.session

    @property
    def name(self) -> str:
        return self.title or name_session(self.project, self.session)


class ModelChange(Struct, frozen=True, kw_only=True):
    """What the next request of a session means with another model."""

    session: OwnSession
    model: str
    """Model that replies then, with prefix."""
    cost: int | None
    """Nano-dollars of reading the conversation without a cache. None: the price is unknown."""
    kept_cost: int | None
    """Nano-dollars of reading it from the cache of the present model. None: the price is unknown."""
    price_source: str
    window: int | None
    """Maximum input of the model. None: unknown."""
    kept_window: int | None = None
    """That of the present model, which the client may know. None: unknown."""

    @property
    def fits(self) -> bool:
        return self.window is None or not can_exceed(self.session.tokens, self.window)

    @property
    def is_same(self) -> bool:
        return self.model == f"{self.session.prefix}/{self.session.model}"

    def describe_cost(self) -> str:
        session = self.session
        if self.is_same:
            return f"It replied to this session last, so its cache stays. The conversation has {_tokens(session)}."
        text = f"The next request reads {_tokens(session)} again, because the cache of {session.prefix}/{session.model}"
        text += " is lost: "
        if self.cost is None:
            return f"{text}the cost is unknown, because {self.model} has no known price."
        if not self.cost:
            return f"{text}free."
        kept = "" if self.kept_cost is None else f", and {format_cost(self.kept_cost)} from that cache"
        return f"{text}about {format_cost(self.cost)}{kept} (prices: {self.price_source})."

    def describe_window(self) -> str:
        if self.window is None:
            return f"The window of {self.model} is unknown."
        window = formats.short_count(self.window)
        if self.fits:
            text = f"It fits: {self.model} accepts {window} tokens."
            if self.kept_window is None or self.window >= self.kept_window:
                return text
            return f"{text} The client may know the larger window of the present model: send /compact in time."
        return (
            f"It does not fit: {self.model} accepts {window} tokens, and the conversation has {_tokens(self.session)}. "
            "Send /compact in the session first."
        )


def _tokens(session: OwnSession) -> str:
    return f"{formats.short_count(session.tokens)} tokens"


class SessionWish(Struct, frozen=True, kw_only=True):
    """The sessions that a person means."""

    sessions: Sequence[str] = ()
    """Ids, or their beginnings. Empty: all that run."""
    project: str | None = None
    """Only those of this project, and those that name none. None: of all projects. `sessions` come before it."""


def list_own_sessions(settings: Settings, client: Client, wish: SessionWish, now: float) -> Sequence[OwnSession]:
    """Return the sessions of the person who sent `client`, the latest first. Raises one of `LEDGER_FAILURES`, or an
    error of SQLAlchemy.
    """
    with read_ledger(settings, MAX_READ_SECONDS) as connection:
        if connection is None:
            return []
        user = find_client_user(client).resolve(EngineReader(connection))
        clients = find_own_clients(connection, client, user)
        restrict_to_client(connection, client, user)
        found = _list_sessions(connection, clients, wish, now)
    with closing(open_for_reading(settings)) as reader:
        chosen = read_choices(reader, now)
    return [structs.replace(one, chosen=chosen[one.key].chosen.model) if one.key in chosen else one for one in found]


def find_own_clients(connection: Connection, client: Client, user: LedgerUser) -> Mapping[str, Client]:
    """Return the labels by which the ledger knows the requests of a person → the client that sends them now: of the key
    of the request, and for a signed-in person also of the keys that the person owns. `user`: the person, resolved.
    """
    if not client.key_id:
        return {client.name: client}
    key, former = virtual_keys.c, former_labels.c
    condition = key.id == client.key_id
    if client.sign_in:
        condition = or_(condition, func.lower(key.owner).in_(user.names))
    rows = connection.execute(select(key.id, key.label, key.owner, key.team).where(condition)).all()
    clients = {
        row.id: client
        if row.id == client.key_id
        else Client(name=row.label, role="member", key_id=row.id, owner=row.owner, team=row.team)
        for row in rows
    }
    labels = {row.label: clients[row.id] for row in rows}
    earlier = connection.execute(select(former.label, former.key_id).where(former.key_id.in_(clients)))
    return {**{row.label: clients[row.key_id] for row in earlier}, **labels}


def _list_sessions(
    connection: Connection, clients: Mapping[str, Client], wish: SessionWish, now: float
) -> Sequence[OwnSession]:
    column = requests.c
    conditions = [column.key_label.in_(clients), column.session != "", column.requested_model != ""]
    if wish.sessions:
        conditions.append(or_(*(column.session.startswith(text, autoescape=True) for text in wish.sessions)))
        since = 0.0
    else:
        since = now - RUNNING_SECONDS
        if wish.project is not None:
            conditions.append(column.project.in_((wish.project, "")))
    conditions.append(column.started_at >= round(since * MICROSECONDS))
    latest = func.max(column.started_at)
    query = select(column.session, column.key_label).where(*conditions).group_by(column.session, column.key_label)
    found = []
    for row in connection.execute(query.order_by(latest.desc()).limit(MAX_SESSIONS)).all():
        stored = _find_last_turn(connection, row.session, row.key_label)
        if stored is not None:
            found.append(_describe(stored, clients[row.key_label]))
    titles = find_session_titles(connection, [one.session for one in found], [*clients])
    named = [structs.replace(one, title=titles.get(one.session, "")) for one in found]
    return list({one.key: one for one in reversed(named)}.values())[::-1]


def _find_last_turn(connection: Connection, session: str, label: str) -> StoredRequest | None:
    """Return the last request of the conversation itself that a model has answered. None: there is none."""
    column = requests.c
    of_session = and_(value_condition("session", session), column.key_label == label)
    of_conversation = and_(column.agent == "", column.kind.in_(CONVERSATION_KINDS), column.requested_model != "")
    answered = and_(column.model != "", column.input_tokens + column.cache_read_tokens + column.cache_write_tokens > 0)
    query = select(requests).where(of_session, of_conversation, answered).order_by(column.started_at.desc()).limit(1)
    row = connection.execute(query).first()
    return None if row is None else build_stored_request(connection, row)


def _describe(row: StoredRequest, client: Client) -> OwnSession:
    return OwnSession(
        client=client,
        session=row.session,
        project=row.project,
        last_at=row.started_at / MICROSECONDS,
        requested=row.requested_model.removesuffix(LONG_CONTEXT_SUFFIX),
        prefix=row.prefix or row.provider,
        model=row.model,
        tokens=row.all_tokens,
    )


def build_change(
    session: OwnSession, features: ModelFeatures, kept: ModelFeatures | None, costs: ModelCosts
) -> ModelChange:
    """`features`: of the model that replies then. `kept`: of the present one; None: no request reaches it."""
    prefix, _, model = features.model.partition("/")
    price = costs.find_price_by_prefix(prefix, model)
    kept_price = costs.find_price_by_prefix(session.prefix, session.model)
    read = TokenCounts(cache_read_tokens=session.tokens)
    return ModelChange(
        session=session,
        model=features.model,
        cost=None if price is None else _price_new_prompt(price, session.tokens),
        kept_cost=None if kept_price is None else kept_price.calculate_cost(read),
        price_source="" if price is None else price.source,
        window=features.max_input,
        kept_window=None if kept is None else kept.max_input,
    )


def _price_new_prompt(price: Price, tokens: int) -> int:
    """Providers that bill writing to their cache do so for the new prompt."""
    writes = price.base.cache_write > price.base.input
    counts = TokenCounts(cache_write_tokens=tokens) if writes else TokenCounts(input_tokens=tokens)
    return price.calculate_cost(counts)
