"""Each kind of request that the proxy sends, with each rule of a key and each field of a route.

The kinds are the names of `ClientPurpose`, and the rules are the fields of `Rules` and `RouteTable`. The words of the
two tables say what leaves the proxy:

- free: the same as without the rule
- none: nothing of this kind
- inhouse: it goes to the server of the route
- judge, guard: it goes to the model that the route names for checks, for descriptions of pictures
- counts: it counts by the rule, so that the next one is refused
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest
from msgspec import Struct

from anthropic_proxy.console.doctor.findings import ProbeTotals
from anthropic_proxy.console.doctor.probe_runner import ProbeRunner
from anthropic_proxy.engine.exchange.forwarding import forward_resource
from anthropic_proxy.engine.options import RouteTable
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.wires.purposes import ClientPurpose
from anthropic_proxy.errors import InvalidRequest, PermissionDenied
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from anthropic_proxy.plugins import Client
from tests.support.harness import RecordingSink, new_client_request
from tests.support.own_requests import CLASSIFIER, FETCH, IMAGE_URL, PAGE_URL, SEARCH, SECRET, World
from tests.support.pictures import paint, show
from tests.support.tool_loop import call
from tests.support.virtual_keys import Keys

KEY_RULES = """
                 models   providers  routes  requests_per_minute  tokens_per_minute  concurrency  budgets
message          none     none       none    counts               counts             counts       counts
classifier       inhouse  inhouse    none    counts               counts             counts       counts
auto_mode_check  none     none       none    free                 none               free         none
confirmation     none     none       none    free                 none               free         none
image_description none    none       none    free                 none               free         none
compaction       none     none       none    free                 none               free         none
further_call     none     none       none    free                 free               free         none
token_count      none     none       none    free                 free               free         free
model_list       free     none       free    free                 free               free         free
resource         none     none       none    none                 none               none         none
web_search       free     none       none    free                 free               free         free
web_fetch        free     none       none    free                 free               free         free
media            free     none       none    free                 free               free         free
probe            free     free       free    free                 free               free         free
"""
ROUTE_FIELDS = """
                 name      when      targets   balance   weights   sticky
message          inhouse   inhouse   inhouse   inhouse   inhouse   inhouse
classifier       inhouse   inhouse   inhouse   inhouse   inhouse   inhouse
auto_mode_check  inhouse   inhouse   inhouse   inhouse   inhouse   inhouse
confirmation     none      none      none      none      none      none
image_description none     none      none      none      none      none
compaction       inhouse   inhouse   inhouse   inhouse   inhouse   inhouse
further_call     inhouse   inhouse   inhouse   inhouse   inhouse   inhouse
token_count      inhouse   inhouse   inhouse   inhouse   inhouse   inhouse
model_list       free      free      free      free      free      free
resource         none      none      none      none      none      none
web_search       free      free      free      free      free      free
web_fetch        free      free      free      free      free      free
media            free      free      free      free      free      free
probe            free      free      free      free      free      free
"""
ROUTE_FIELDS_OF_OWN_REQUESTS = """
                 auto_mode  auto_mode_model  auto_mode_timeout  web  image_model
message          inhouse    inhouse          inhouse            inhouse inhouse
classifier       inhouse    judge            inhouse            inhouse inhouse
auto_mode_check  none       judge            inhouse            inhouse inhouse
confirmation     none       none             none               none none
image_description none      none             none               none guard
compaction       inhouse    inhouse          inhouse            inhouse inhouse
further_call     inhouse    inhouse          inhouse            inhouse inhouse
token_count      inhouse    inhouse          inhouse            inhouse inhouse
model_list       free       free             free               free free
resource         none       none             none               none none
web_search       free       free             free               none free
web_fetch        free       free             free               none free
media            free       free             free               none free
probe            free       free             free               free free
"""


class Kind(Struct, frozen=True, kw_only=True):
    """How a request of a client leads to a request of one kind."""

    free: Sequence[str]
    """Servers and models to which it leads without a rule."""
    purpose: str
    """`Sent.purpose` of the requests of this kind."""
    is_behind_first: bool = False
    """True if the first of them belongs to another kind."""
    model: str = "inhouse/qwen3"
    """Model of the client, if there is no route."""
    target: str = "inhouse/qwen3"
    """First target of the route."""
    run: Callable[[World, Client, Mapping[str, str], str], Awaitable[None]]
    settings: Mapping[str, str] = {}
    text: str = ""
    """Part of the configuration file."""


async def _post(world: World, client: Client, headers: Mapping[str, str], model: str) -> None:
    await world.post(client, headers, model=model)


async def _ask_as_classifier(world: World, client: Client, headers: Mapping[str, str], model: str) -> None:
    await world.post(client, headers, model=model, tools=[], safeguards=[], **CLASSIFIER)


async def _search(world: World, client: Client, headers: Mapping[str, str], model: str) -> None:
    world.add_search("brave")
    world.calls = [call("web_search", query=SECRET)]
    await world.post(client, headers, model=model, tools=[SEARCH], safeguards=[])


async def _fetch(world: World, client: Client, headers: Mapping[str, str], model: str) -> None:
    world.add_fetch()
    world.calls = [call("web_fetch", url=PAGE_URL)]
    messages = [{"role": "user", "content": PAGE_URL}]
    await world.post(client, headers, model=model, tools=[FETCH], safeguards=[], messages=messages)


async def _summarize(world: World, client: Client, headers: Mapping[str, str], model: str) -> None:
    await world.post(client, headers, model=model, safeguards=[], compaction={"type": "summarize"})


async def _link(world: World, client: Client, headers: Mapping[str, str], model: str) -> None:
    world.add_fetch()
    content = [{"type": "image", "source": {"type": "url", "url": IMAGE_URL}}]
    messages = [{"role": "user", "content": content}]
    await world.post(client, headers, model=model, safeguards=[], messages=messages)


async def _show(world: World, client: Client, headers: Mapping[str, str], model: str) -> None:
    messages = [{"role": "user", "content": [show(paint("red"))]}]
    await world.post(client, headers, model=model, safeguards=[], messages=messages)


async def _count(world: World, client: Client, headers: Mapping[str, str], model: str) -> None:
    assert await world.count(client, headers, model=model) > 0  # also without the provider


async def _list_models(world: World, client: Client, headers: Mapping[str, str], model: str) -> None:
    await world.list_models(client)


async def _create_batch(world: World, client: Client, headers: Mapping[str, str], model: str) -> None:
    params = {"model": "claude-opus-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": SECRET}]}
    body = json.dumps({"requests": [{"custom_id": "a", "params": params}]}).encode()
    incoming = new_client_request(body, headers, client=client, path="/v1/messages/batches")
    with suppress(PermissionDenied, InvalidRequest):
        await forward_resource(world.proxy.services, incoming, "POST", RecordingSink())


async def _probe(world: World, client: Client, headers: Mapping[str, str], model: str) -> None:
    services = world.proxy.services
    target = build_plan(RoutingQuery("cloud/big"), services.settings, services.catalog).targets[0]
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    await ProbeRunner(services, ProbeTotals()).send(target, body)


ANTHROPIC = {
    "PREFERRED_PROVIDER": "anthropic",
    "ANTHROPIC_API_KEY": "sk-ant-0123456789",
}
KINDS: Mapping[str, Kind] = {
    "message": Kind(free=["cloud/big"], purpose="message", model="claude-opus-5-5", run=_post),
    "classifier": Kind(
        free=["cloud/judge"], purpose="message", run=_ask_as_classifier, settings={"AUTO_MODE_MODEL": "cloud/judge"}
    ),
    "auto_mode_check": Kind(
        free=["cloud/judge"], purpose="check", run=_post, settings={"AUTO_MODE_MODEL": "cloud/judge"}
    ),
    "confirmation": Kind(
        free=["cloud/small"],
        purpose="check",
        is_behind_first=True,
        run=_post,
        settings={"AUTO_MODE_MODEL": "inhouse/guard"},
        text='[auto_mode]\nconfirm_with = "cloud/small"\n',
    ),
    "image_description": Kind(
        free=["cloud/judge"],
        purpose="description",
        model="inhouse/blind",
        target="inhouse/blind",
        run=_show,
        text='[images]\nmodel = "cloud/judge"\n',
    ),
    "compaction": Kind(free=["cloud/big"], purpose="compaction", model="claude-opus-5-5", run=_summarize),
    "further_call": Kind(
        free=["cloud/big"],
        purpose="message",
        is_behind_first=True,
        model="claude-opus-5-5",
        run=_search,
    ),
    "token_count": Kind(free=["cloud/big"], purpose="/count", model="claude-opus-5-5", run=_count),
    "model_list": Kind(free=["anthropic/"], purpose="/v1/models", run=_list_models, settings=ANTHROPIC),
    "resource": Kind(free=["anthropic/"], purpose="/v1/messages/batches", run=_create_batch, settings=ANTHROPIC),
    "web_search": Kind(free=["brave/"], purpose="brave", run=_search),
    "web_fetch": Kind(free=["page/"], purpose="page", run=_fetch),
    "media": Kind(free=["page/"], purpose="page", run=_link),
    "probe": Kind(free=["cloud/big"], purpose="message", run=_probe),
}


def list_names(literal: Any) -> list[str]:
    """Return the names of a `Literal`, or of a union of them."""
    return [name for each in get_args(literal) for name in (list_names(each) or [each])]


def read_table(text: str) -> dict[tuple[str, str], str]:
    """Return kind and rule → word of the cell."""
    header, *rows = (line.split() for line in text.strip("\n").splitlines())
    return {(kind, rule): word for kind, *words in rows for rule, word in zip(header, words, strict=True)}


KEY_CELLS = read_table(KEY_RULES)
ROUTE_CELLS = read_table(ROUTE_FIELDS) | read_table(ROUTE_FIELDS_OF_OWN_REQUESTS)


def test_each_kind_has_a_cell_for_each_rule() -> None:
    kinds = list_names(ClientPurpose)
    assert sorted(KINDS) == sorted(kinds)
    for cells, struct in ((KEY_CELLS, Rules), (ROUTE_CELLS, RouteTable)):
        expected = {(kind, field) for kind in kinds for field in struct.__struct_fields__}
        assert sorted(expected - cells.keys()) == [], "give each new kind and each new rule its cells"
        assert sorted(cells.keys() - expected) == []


async def list_places(world: World, name: str, client: Client, headers: Mapping[str, str], model: str) -> list[str]:
    """Let a client cause a request of this kind, and return where those of the kind go."""
    kind = KINDS[name]
    calls = [*world.calls]
    before = len(world.sent)
    await kind.run(world, client, headers, model)
    places = [place for purpose, place in world.places[before:] if purpose.endswith(kind.purpose)]
    world.calls = calls
    return places[1:] if kind.is_behind_first else places


@pytest.mark.parametrize("name", KINDS)
async def test_each_kind_leaves_without_a_rule(name: str, tmp_path: Path, keys: Keys) -> None:
    kind = KINDS[name]
    world = World(tmp_path, keys, kind.text, **kind.settings)
    assert await list_places(world, name, Client(), {}, kind.model) == kind.free


def rules_of(rule: str) -> dict[str, Any]:
    values: dict[str, Any] = {
        "models": ("inhouse/*",),
        "providers": ("inhouse",),
        "routes": ("another",),
        "requests_per_minute": 1,
        "tokens_per_minute": 2_000,
        "concurrency": 1,
        "budgets": (Budget(1_000, "tokens", "day"),),
    }
    return {rule: values[rule]}


async def check_that_it_counts(world: World, name: str, client: Client, rule: str) -> None:
    kind = KINDS[name]
    world.gate = asyncio.Event()  # the first one is running while the second comes
    first = asyncio.create_task(list_places(world, name, client, {}, kind.model))
    await world.has_sent.wait()
    assert await list_places(world, name, client, {}, kind.model) == []
    world.gate.set()
    assert await first == kind.free


@pytest.mark.parametrize(("name", "rule"), KEY_CELLS)
async def test_a_rule_of_a_key_binds_the_kind(name: str, rule: str, tmp_path: Path, keys: Keys) -> None:
    kind, word = KINDS[name], KEY_CELLS[name, rule]
    world = World(tmp_path, keys, kind.text, **kind.settings)
    client = await world.new_client(**rules_of(rule))
    if word == "counts":
        await check_that_it_counts(world, name, client, rule)
    else:
        await expect(word, name, await list_places(world, name, client, {}, kind.model))


ROUTE = """
[[routes]]
name = "secret"
when = { header = { x-data = "secret" } }
targets = ["FIRST", "inhouse/guard"]
"""
SET_FIELDS: Mapping[str, str] = {
    "name": "",
    "when": "",
    "targets": "",
    "balance": 'balance = "weighted"',
    "weights": 'balance = "weighted"\nweights = [1, 1_000_000]',
    "sticky": 'balance = "weighted"\nsticky = false',
    "auto_mode": 'auto_mode = "client"',
    "auto_mode_model": 'auto_mode_model = "cloud/judge"',
    "auto_mode_timeout": "auto_mode_timeout = 1.5",
    "image_model": 'image_model = "inhouse/guard"',
    "web": "web = false",
}
"""Field of a route → lines that set it, in addition to those of `ROUTE`."""


@pytest.mark.parametrize(("name", "field"), ROUTE_CELLS)
async def test_a_field_of_a_route_binds_the_kind(name: str, field: str, tmp_path: Path, keys: Keys) -> None:
    kind, word = KINDS[name], ROUTE_CELLS[name, field]
    route = ROUTE.replace("FIRST", kind.target)
    world = World(tmp_path, keys, f"{route}{SET_FIELDS[field]}\n{kind.text}", **kind.settings)
    world.is_checker_silent = field == "auto_mode_timeout"
    client = Client() if name == "resource" else await world.new_client(routes=() if field == "when" else ("secret",))
    places = await list_places(world, name, client, {"x-data": "secret"}, "claude-opus-5-5")
    await expect(word, name, places)
    for receipt in world.proxy.receipts:
        assert receipt.route == ("" if name == "probe" else "secret")
    if field == "when" and name not in ("web_search", "web_fetch", "media"):  # these follow from replies of a model
        other = World(tmp_path, keys, f"{route}{kind.text}", **kind.settings)
        assert await list_places(other, name, client, {"x-data": "public"}, kind.model) == kind.free
    if field == "weights":
        assert kind.target not in places


async def expect(word: str, name: str, places: Sequence[str]) -> None:
    match word:
        case "free":
            assert places == KINDS[name].free
        case "none":
            assert places == []
        case "inhouse":
            assert places
            assert {place.partition("/")[0] for place in places} == {"inhouse"}
        case "judge":
            assert places == ["cloud/judge"]
        case "guard":
            assert places == ["inhouse/guard"]
        case _:
            raise ValueError(word)
