"""Forwarding of requests other than messages to a provider with the Messages API: token counts, model lists, batches,
files and skills.

`Retries.call_with_retries` calls the provider, as for messages, but repeats a failed request only with a key that was
read again or a new access token (`TargetRun.is_message`). Batches, files and skills exist only if the preferred
provider serves Claude models. Routes and settings map the model of each request in a batch, as for `POST /v1/messages`,
and it must be a model of this provider. All calls for them use the first of several API keys, because the resources of
a key are unknown to a key of another workspace.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar
from urllib.parse import urlsplit

from msgspec import Meta, Raw, Struct, field, structs

from anthropic_proxy.engine.background import MAX_STEPS_ON_LOOP
from anthropic_proxy.engine.clock import start_clock
from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.adaptation import apply_stored_adaptations, find_learned_dialect
from anthropic_proxy.engine.exchange.admission import Admission, settled_admission
from anthropic_proxy.engine.exchange.attempt import Attempt, TargetRun
from anthropic_proxy.engine.exchange.attempt_sender import AttemptRecords, examine_response, require_lossless
from anthropic_proxy.engine.exchange.attempts import Retries
from anthropic_proxy.engine.exchange.call_states import restore_call_states
from anthropic_proxy.engine.exchange.client_side import ClientRequest, ResponseSink
from anthropic_proxy.engine.exchange.forwarded_results import ForwardedResults
from anthropic_proxy.engine.exchange.inspection import InspectAdded, open_inspection
from anthropic_proxy.engine.exchange.own_requests import ParentRequest
from anthropic_proxy.engine.exchange.plan import choose_plan, find_citation_key, follow_session, match_route
from anthropic_proxy.engine.exchange.provider_errors import (
    add_address_advice,
    add_not_found_cause,
    idle_timeout_error,
    read_list_for_remedy,
    require_api_response,
)
from anthropic_proxy.engine.exchange.relay import build_relay_call, forwarded_headers, restrict_relayed_request
from anthropic_proxy.engine.exchange.upstream_stream import MAX_BODY_BYTES
from anthropic_proxy.engine.exchange.watchdog import ClientDisconnected, Watchdog, end_if_disconnected, uncancel
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.messages.call_states import list_ids_with_states
from anthropic_proxy.engine.messages.fidelity import FidelityNote, FidelityReport, NoteCheck
from anthropic_proxy.engine.messages.media import may_have_media
from anthropic_proxy.engine.messages.models import (
    CleanMessages,
    MessagesRequest,
    decode_request_or_envelope,
    guess_model,
)
from anthropic_proxy.engine.messages.preparation import number_sources, prepare, server_tool_kinds
from anthropic_proxy.engine.messages.tokens import MAX_TOKENS, EstimateCache, TokenScale
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.providers.call_options import extend_request, merge_batch
from anthropic_proxy.engine.providers.model_observations import MIN_RECORDED_TOKENS
from anthropic_proxy.engine.routing.choices import find_preferred_provider
from anthropic_proxy.engine.routing.router import Plan, RoutingQuery, build_plan
from anthropic_proxy.engine.routing.targets import Target, switch_wire
from anthropic_proxy.engine.slices import MAX_REPLY_BYTES_ON_LOOP
from anthropic_proxy.engine.wires.anthropic.batches import RESOURCE_ID, encode_batch, remove_results_host
from anthropic_proxy.engine.wires.anthropic.betas import BETAS_OF_CONTEXT, makes_edits, remove_betas
from anthropic_proxy.engine.wires.bound_requests import BoundRequest
from anthropic_proxy.engine.wires.calls import Call, RelayCall, TranslatedCall
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest, UpstreamResponse, read_body
from anthropic_proxy.errors import (
    ClientError,
    InvalidRequest,
    PermissionDenied,
    PolicyBlocked,
    ProxyError,
    UnknownModel,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)

if TYPE_CHECKING:
    from anthropic_proxy.engine.exchange.image_describing import ImageDescriber
    from anthropic_proxy.engine.exchange.inspection.inspection import Inspection

COUNT_TIMEOUT_SECONDS = 10.0
"""Maximum seconds for a token count by the provider. After this time the client gets an estimate of the proxy."""
PROVIDER_COUNT_SECONDS = 3.0
"""Maximum seconds for a token count by a provider with another API. After this time the client gets an estimate."""
BESIDE_BASE_URL = "/.."
"""Beginning of a path that is not below the base URL, but beside it."""
LIST_TIMEOUT_SECONDS = 2.5
"""Maximum seconds for the provider's model list. After this time the proxy's own list is sent. Claude Code waits 3
s."""

_MODEL_PATHS = compile_anchored(rf"/v1/models(?:/{RESOURCE_ID})?", re.ASCII)
"""Pattern of the URL paths of model lists that are sent to the provider unchanged. They cannot contain `..` or a
query."""


WaitDisconnected = Callable[[], Awaitable[None]]
_Result = TypeVar("_Result")


class JsonReply(Struct, frozen=True):
    """Response to a request for a token count or a model list."""

    body: bytes
    headers: Mapping[str, str] = {}
    """Provider headers for the client. Empty if the proxy produced the body itself."""


async def count_tokens(engine: Engine, incoming: ClientRequest, wait_disconnected: WaitDisconnected) -> JsonReply:
    """Return the response to `POST /v1/messages/count_tokens`, with an estimate if the provider cannot count or fails.

    Raises `ClientDisconnected`.
    """
    incoming.purpose = "token_count"
    read = partial(decode_request_or_envelope, for_token_count=True)
    request = await incoming.decode(read)
    if engine.session_models is not None:
        await follow_session(engine.session_models, incoming, request)
    plan = await choose_plan(engine, incoming, request, EstimateCache())
    target = apply_stored_adaptations(engine, plan.targets[0], [], incoming.receipt.client.id)
    with settled_admission(engine, incoming) as admission:
        inspection: Inspection | None = None
        may_ask = await admission.admit_count(request, structs.replace(plan, targets=[target]))
        if may_ask and engine.inspectors:
            incoming, inspection = await _inspect(engine, incoming, wait_disconnected)
            request = await incoming.decode(read)
        ask_relay = partial(
            _relay_count, engine, request=request, target=target, wait=wait_disconnected, admission=admission
        )
        count: int | None = None
        asked = await _edit_relayed(engine, incoming, request, target) if may_ask else incoming
        if may_ask and (reply := await ask_relay(asked)) is not None:
            count = None if asked is incoming else _read_count(reply.body)
            if count is None:
                return reply
        if request.decode_error is not None:
            raise request.decode_error
        request.citation_key, request.kept_passages = await find_citation_key(engine, incoming), engine.kept_passages
        inspect = None if inspection is None else inspection.inspect_added
        adapted = structs.replace(plan, targets=[target])
        work = _replace_media(engine, incoming, request, adapted, admission=admission, inspect=inspect)
        request = await end_if_disconnected(work, wait_disconnected)
        scale = engine.observations.find_token_scale(target.provider.name, target.model, incoming.receipt.client.id)
        in_thread = partial(incoming.background.run_in_thread_if_large, incoming.is_large)

        async def count_translated(request: MessagesRequest) -> int:
            estimates = EstimateCache()
            sent = request if target.is_relayed else await in_thread(_number_sources, request)
            counted: int | None = None
            if may_ask:
                counted = await _count_by_provider(
                    engine, incoming, request, target, wait_disconnected, admission=admission
                )
            estimated = await in_thread(estimates.get_or_estimate, sent, TokenScale(scale.family))
            if counted is None:
                return round(estimated * scale.factor)
            if estimated >= MIN_RECORDED_TOKENS and estimates.is_latest_usual(scale.family):
                engine.observations.record_token_count(
                    target.provider.name, target.model, incoming.receipt.client.id, estimated, counted
                )
            return counted

        if request.context_edits is None:
            return JsonReply(b'{"input_tokens":%d}' % await count_translated(request))
        from anthropic_proxy.engine.messages.context_editing import edit_context  # noqa: PLC0415  # few requests

        original = structs.replace(request, context_edits=None)
        edited, applied = await in_thread(edit_context, request)
        of_original: int | None = None
        if count is None:
            count = await count_translated(edited)
        elif applied and (reply := await ask_relay(await _remove_edits(incoming))) is not None:
            of_original = _read_count(reply.body)
        if of_original is None:
            of_original = await count_translated(original) if applied else count
        return JsonReply(
            b'{"input_tokens":%d,"context_management":{"original_input_tokens":%d}}' % (count, of_original)
        )


async def _remove_edits(incoming: ClientRequest) -> ClientRequest:
    """Return the request without the field that asks for edits, for a server that does not know it."""
    from anthropic_proxy.engine.wires.anthropic.context_spans import edit_conversation  # noqa: PLC0415  # few requests

    run = incoming.background.run_in_thread_if_large
    body = await run(incoming.is_large, edit_conversation, incoming.body, None)
    return structs.replace(incoming, body=body, headers=remove_betas(incoming.headers, BETAS_OF_CONTEXT))


def _number_sources(request: MessagesRequest) -> MessagesRequest:
    messages = request.messages
    if isinstance(messages, CleanMessages):
        return request
    return structs.replace(request, messages=number_sources(request, messages, [])[0])


async def _edit_relayed(
    engine: Engine, incoming: ClientRequest, request: MessagesRequest, target: Target
) -> ClientRequest:
    """Return the request of which a relay counts the tokens. The same one: the proxy has nothing to edit."""
    edits = request.context_edits
    if not target.is_relayed or edits is None:
        return incoming
    if makes_edits(find_learned_dialect(engine, target, incoming.receipt.client.id), edits):
        return incoming
    from anthropic_proxy.engine.messages.context_editing import find_removed  # noqa: PLC0415  # few requests
    from anthropic_proxy.engine.wires.anthropic.context_spans import edit_conversation  # noqa: PLC0415  # few requests

    def edit() -> bytes:
        return edit_conversation(incoming.body, find_removed(request)[0])

    body = await incoming.background.run_in_thread_if_large(incoming.is_large, edit)
    return structs.replace(incoming, body=body, headers=remove_betas(incoming.headers, BETAS_OF_CONTEXT))


async def _replace_media(
    engine: Engine,
    incoming: ClientRequest,
    request: MessagesRequest,
    plan: Plan,
    *,
    admission: Admission,
    inspect: InspectAdded | None,
) -> MessagesRequest:
    """Return the request with documents and pictures as the model of `plan` would get them. No model is called: for a
    picture that nobody has described, there is a text of the usual length.
    """
    target = plan.targets[0]
    limits = engine.find_target_limits(target, admission.servers)
    # messages in this form cite no document
    reads_all = limits.accepts_pdf and limits.accepts_images and isinstance(request.messages, CleanMessages)
    if target.is_relayed or reads_all or not may_have_media(request.messages):
        return request
    is_large = incoming.is_large
    describer: ImageDescriber | None = None
    if engine.settings.images is not None and not limits.accepts_images:
        from anthropic_proxy.engine.exchange import image_describing  # noqa: PLC0415  # few need it

        parent = ParentRequest(engine, incoming, request, plan)
        describer = image_describing.ImageDescriber(parent, engine.settings.images, inspect)
        request, _ = await image_describing.describe_images(describer, request, is_large=is_large)
    if not limits.accepts_pdf or engine.documents.is_installed:
        from anthropic_proxy.engine.exchange.document_reading import read_documents  # noqa: PLC0415  # few need it

        request, *_ = await read_documents(
            engine.documents,
            incoming.background,
            request,
            target,
            limits,
            is_large=is_large,
            describer=describer,
            inspect=inspect,
            count_read=partial(incoming.count_made, "documents"),
        )
    return request


async def _relay_count(
    engine: Engine,
    incoming: ClientRequest,
    *,
    request: MessagesRequest,
    target: Target,
    wait: WaitDisconnected,
    admission: Admission,
) -> JsonReply | None:
    """Return the count of a provider that has the endpoint. None: it has none, is paused, or failed.

    Raises the error about a request that only the provider can decode.
    """
    client = incoming.receipt.client.id
    is_paused = engine.observations.pauses_counts(target.upstream, client) and request.decode_error is None
    if not target.dialect.has_count_tokens or is_paused:
        return None
    try:
        return await _request_json(
            engine,
            incoming,
            request,
            target,
            wait,
            admission=admission,
            seconds=COUNT_TIMEOUT_SECONDS,
        )
    except ProxyError as error:
        if request.decode_error is not None:
            raise
        if isinstance(error, UpstreamTimeout):
            engine.observations.pause_counts(target.upstream, client)
        engine.log.write_once(f"count_tokens: estimated by the proxy, because {error.stored_message}")
        return None


async def _inspect(
    engine: Engine, incoming: ClientRequest, wait_disconnected: WaitDisconnected, *, is_batch: bool = False
) -> "tuple[ClientRequest, Inspection]":
    """Return the request as the inspectors leave it, and its inspection.

    Raises `PolicyBlocked`, `InspectorUnavailable` and `ClientDisconnected`.
    """
    inspection = open_inspection(engine, incoming.receipt, guess_model(incoming.body) or "")
    work = inspection.inspect_body(incoming, is_batch=is_batch)
    return structs.replace(incoming, body=await end_if_disconnected(work, wait_disconnected)), inspection


async def _count_by_provider(
    engine: Engine,
    incoming: ClientRequest,
    request: MessagesRequest,
    target: Target,
    wait_disconnected: WaitDisconnected,
    *,
    admission: Admission,
) -> int | None:
    """Return the input tokens as the provider counts them in its own format. None: it cannot, or it failed."""
    if not target.dialect.count_paths:  # a model of OpenAI with Chat Completions, which counts over Responses
        target = switch_wire(target, "responses", engine.settings) or target
    observations = engine.observations
    server = target.upstream
    model = target.model
    client = incoming.receipt.client.id
    dialect = target.dialect
    paths = [path for path in dialect.count_paths if observations.has_count_path(server, path, client) is not False]
    if not paths or observations.pauses_counts(server, client):
        return None

    async def read(response: UpstreamResponse, _: Watchdog) -> int | None:
        return _read_count(await read_body(response, MAX_BODY_BYTES))

    async def try_path(given: str, call: Call[BaseDialect]) -> int | None:
        place, path, count = target, given, None
        if path.startswith(BESIDE_BASE_URL):
            base_url = target.base_url
            base_url = base_url.rpartition("/")[0] if urlsplit(base_url).path else base_url
            path = path.removeprefix(BESIDE_BASE_URL)
            place = structs.replace(target, base_url=base_url)
        try:
            count = await call_provider(
                engine,
                incoming,
                request,
                call,
                place,
                admission=admission,
                read=read,
                wait_disconnected=wait_disconnected,
                total_seconds=deadline - loop.time(),
                encode=partial(target.wire.encode_count, path=path),
            )
        except UpstreamError as error:
            if error.status != 404:
                raise
            if model in error.provider_text:  # the server may count for its other models
                return None
        observations.store_count_path(server, given, client, counts=count is not None)
        return count

    async def ask_once_decided(path: str, call: Call[BaseDialect]) -> int | None:
        # Claude Code sends many counts at once: the first one shows whether the server has the path
        lock = observations.count_locks.setdefault(f"{server}{path}", asyncio.Lock())
        try:
            async with asyncio.timeout_at(deadline):
                await lock.acquire()
        except TimeoutError:
            return None
        try:
            known = observations.has_count_path(server, path, client)
            if known is False or observations.pauses_counts(server, client):
                return None
            if known is None:
                return await try_path(path, call)
        finally:
            lock.release()
        return await try_path(path, call)

    loop = asyncio.get_running_loop()
    deadline = loop.time() + PROVIDER_COUNT_SECONDS
    try:
        limits = engine.find_target_limits(target, admission.servers)
        if call_ids := list_ids_with_states(request.messages):
            request = await restore_call_states(engine, incoming, request, call_ids, is_large=incoming.is_large)
        prepared = await incoming.background.run_in_thread_if_large(incoming.is_large, prepare, request, limits)
        call = TranslatedCall(
            request=prepared.request,
            model=model,
            requested_model=request.model,
            dialect=dialect,
            streams_upstream=False,
            client_tool_names=prepared.aliases,
            new_id=engine.new_id,
            provider_prefix=target.provider.prefix,
            base_url=target.base_url,
            max_schema_steps=MAX_STEPS_ON_LOOP,
        )
        for path in paths:
            if (count := await ask_once_decided(path, call)) is not None:
                return count
    except ProxyError as error:
        if isinstance(error, UpstreamTimeout):
            observations.pause_counts(server, client)
        engine.log.write_once(f"count_tokens: estimated by the proxy, because {error.stored_message}")
    return None


class _ProviderCount(Struct, rename="camel"):
    """Count of an engine: `input_tokens` (OpenAI, llama.cpp), `totalTokens` (Google), `count` (vLLM)."""

    openai: int | None = field(default=None, name="input_tokens")
    total_tokens: int | None = None
    count: int | None = None


def _read_count(body: bytes) -> int | None:
    try:
        counted = decode_json(body, _ProviderCount)
    except InvalidJson:
        return None
    found = next((one for one in (counted.openai, counted.total_tokens, counted.count) if one is not None), None)
    # LM Studio answers unknown paths with status 200
    return found if found is not None and 0 < found <= MAX_TOKENS else None


async def list_models(engine: Engine, incoming: ClientRequest, wait_disconnected: WaitDisconnected) -> JsonReply | None:
    """Return the preferred provider's own response to `GET /v1/models` or to a path below it.

    None: it has no list of Claude models, or its response is an error. Raises `ClientDisconnected`.
    """
    preferred = find_preferred_provider(engine.settings, engine.catalog)
    if not preferred.serves_claude or not _MODEL_PATHS.fullmatch(incoming.receipt.path):
        return None
    request = MessagesRequest(model=f"{preferred.prefix}/models", messages=[])
    target = build_plan(RoutingQuery(request.model), engine.settings, engine.catalog).targets[0]
    if not target.dialect.has_model_list:
        return None
    incoming = structs.replace(incoming, body=b"", purpose="model_list")
    try:
        with settled_admission(engine, incoming) as admission:
            await admission.admit_without_model(preferred)
            return await _request_json(
                engine,
                incoming,
                request,
                target,
                wait_disconnected,
                admission=admission,
                seconds=LIST_TIMEOUT_SECONDS,
            )
    except PermissionDenied:
        return None
    except ProxyError as error:
        if error.status != 404:
            engine.log.write_once(f"models: listed from the proxy's own tables, because {error.stored_message}")
        return None


async def _request_json(
    engine: Engine,
    incoming: ClientRequest,
    request: MessagesRequest,
    target: Target,
    wait_disconnected: WaitDisconnected,
    *,
    admission: Admission,
    seconds: float,
) -> JsonReply:
    if incoming.receipt.client.is_restricted:
        await restrict_relayed_request(engine, incoming)
    call = build_relay_call(incoming, request, target)

    async def read(response: UpstreamResponse, _: Watchdog) -> JsonReply:
        require_api_response(response, target, engine.settings)
        body = await read_body(response, MAX_BODY_BYTES)
        path = call.path
        try:  # some servers answer unknown paths with status 200
            if path.endswith("/count_tokens"):
                decode_json(body, _Counted)
                is_expected = True
            else:
                listed = decode_json(body, _Listed)
                is_expected = listed.data is not None or listed.id is not None  # a list of models, or a model
        except InvalidJson:
            is_expected = False
        if not is_expected:
            name = target.provider.prefix
            raise UpstreamProtocolError(f"{name} answered {path} with an unexpected body", provider=name)
        return JsonReply(body, forwarded_headers(response.headers))

    try:
        return await call_provider(
            engine,
            incoming,
            request,
            call,
            target,
            admission=admission,
            read=read,
            wait_disconnected=wait_disconnected,
            total_seconds=seconds,
        )
    except UpstreamError as error:
        await read_list_for_remedy(error, target, engine.settings, engine.catalog)
        add_not_found_cause(error, target, call.path, engine.settings, engine.catalog)
        raise


async def call_provider(
    engine: Engine,
    incoming: ClientRequest,
    request: MessagesRequest,
    call: Call[BaseDialect],
    target: Target,
    *,
    admission: Admission,
    read: Callable[[UpstreamResponse, Watchdog], Awaitable[_Result]],
    wait_disconnected: WaitDisconnected,
    total_seconds: float | None = None,
    method: str | None = None,
    uses_first_key: bool = False,
    encode: Callable[[Call[BaseDialect]], UpstreamRequest] | None = None,
) -> _Result:
    """Send a client request to a provider, and return the result of `read` for its successful response.

    `encode`: encoder of the request. None: the encoder of the wire. All attempts together have `total_seconds`. None:
    each has the time limits of a message, and `read` calls `note_content` of the watchdog after each read.

    Raises `UpstreamError` and `ClientDisconnected`.
    """
    provider = target.provider
    credentials = engine.credentials
    timeouts = engine.settings.timeouts
    encode = encode or target.wire.encode_request
    encoded = await incoming.background.run_for_call(encode, call, is_large=incoming.is_large)
    if method is not None:
        encoded = structs.replace(encoded, method=method, may_repeat=method == "GET")
    options = engine.settings.call_options.get(provider.name)
    if options is not None:
        encoded = extend_request(options, encoded, client_headers=incoming.headers)
    watchdog = Watchdog(
        wait_disconnected=wait_disconnected,
        on_idle=None,
        # twice the total: `deadline` is then always earlier
        first_byte_seconds=2 * total_seconds if total_seconds else timeouts.first_byte_seconds,
        idle_seconds=2 * total_seconds if total_seconds else timeouts.idle_seconds,
        first_checks=engine.first_checks,
    )
    deadline = asyncio.get_running_loop().time() + total_seconds if total_seconds is not None else None
    clock = start_clock(engine.clock())
    origin = admission.build_origin([(provider.name, target.model)])
    records = AttemptRecords(incoming.receipt, engine, clock)
    retries = Retries(engine, incoming, request, watchdog, records, admission)

    async def prepare(target: Target, credential: Credential | None, run: TargetRun) -> Attempt:
        return Attempt(target=target, run=run, call=call, credential=credential)

    async def send(attempt: Attempt) -> _Result:
        watchdog.begin_upstream_call()
        try:
            async with asyncio.timeout_at(deadline) as limit:
                base_url = target.base_url
                if attempt.credential is None and credentials.uses_tokens(provider):
                    attempt.credential, base_url = await credentials.next_token_and_url(provider, base_url)
                request = records.begin_attempt(target, encoded)
                bound = BoundRequest(
                    origin, base_url, request, attempt.credential, server=provider.name, model=target.model
                )
                response = await engine.transports[provider.name](bound)
                try:
                    incoming.receipt.attempts[-1].status = response.status
                    if not 200 <= response.status < 300:
                        await examine_response(  # raises
                            engine, watchdog, target, call, response, background=incoming.background
                        )
                    return await read(response, watchdog)
                finally:
                    await response.close()
        except UpstreamError as error:
            add_address_advice(error, target, engine.settings)
            raise
        except TimeoutError:
            if not limit.expired():
                raise
            message = f"{provider.prefix} did not answer within {total_seconds:g} s"
            raise UpstreamTimeout(message, provider=provider.prefix) from None
        except asyncio.CancelledError:
            if not watchdog.recover_from_idle():
                raise
            raise idle_timeout_error(provider.prefix, watchdog.upstream_limit) from None

    scale = engine.observations.find_token_scale(provider.name, target.model, incoming.receipt.client.id)
    run = TargetRun(
        request, scale, origin, adaptations_left=0, retries_left=0, is_message=False, uses_first_key=uses_first_key
    )
    try:
        return await retries.call_with_retries(target, run, prepare, send)
    except asyncio.CancelledError:
        if watchdog.reason != "gone":
            raise
        uncancel()
        raise ClientDisconnected from None
    finally:
        watchdog.stop()
        records.end_attempt()


class _Counted(Struct):
    input_tokens: Annotated[int, Meta(gt=0, le=MAX_TOKENS)]


class _Listed(Struct):
    data: list[Raw] | None = None
    id: str | None = None


RESOURCE_PATHS = compile_anchored(rf"/v1/(?:messages/batches|files|skills)(?:/{RESOURCE_ID}){{0,5}}", re.ASCII)
"""Pattern of the URL paths of batches, files and skills. They cannot contain `..` or a query."""
BATCHES_PATH = "/v1/messages/batches"
_PARTIAL_HEADERS = frozenset(
    ("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
)
"""Client headers with which a server answers only a part of a file, or nothing of it."""
_EMPTY_BODIES = (b"", b"{}")
_SAFE_HEADERS = {"content-security-policy": "sandbox; default-src 'none'", "x-content-type-options": "nosniff"}
"""Headers that keep a browser from running a downloaded file as a page of the proxy."""


async def forward_resource(engine: Engine, incoming: ClientRequest, method: str, sink: ResponseSink) -> None:
    """Forward a request for a batch, file or skill, and send the response. May raise `ClientDisconnected`."""
    incoming.purpose = "resource"
    with settled_admission(engine, incoming) as admission:
        await admission.admit_without_model()
        await _forward_admitted(engine, incoming, method, sink, admission)


async def _forward_admitted(
    engine: Engine, incoming: ClientRequest, method: str, sink: ResponseSink, admission: Admission
) -> None:
    path = incoming.receipt.path
    preferred = find_preferred_provider(engine.settings, engine.catalog)
    if not preferred.serves_claude:
        raise UnknownModel(
            f"{path!r} is served only if Anthropic is the preferred provider, because no other provider has "
            f"batches, files and skills of the Messages API. The preferred provider is {preferred.name}.",
            code="batches-files-skills",
            is_negotiated=method == "GET",  # the client asks what exists
        )
    if incoming.receipt.client.key_id:
        raise PermissionDenied(
            f"{path!r} is not served for virtual keys: batches, files and skills belong to the API key of "
            "the provider, so that every virtual key would see and delete those of the others.",
            code="resources-of-a-virtual-key",
        )
    creates_batch = method == "POST" and path == BATCHES_PATH
    if not creates_batch and incoming.body.strip() not in _EMPTY_BODIES:
        for inspector in engine.inspectors:  # they cannot read the contents of files
            if (scope := inspector.scope).requests and not scope.fails_open:
                raise PolicyBlocked(
                    f"{path!r} is not served, because the inspector {scope.name} of this proxy cannot read files and "
                    "skills. Send the text within a message."
                )
    target = build_plan(RoutingQuery(f"{preferred.prefix}/x"), engine.settings, engine.catalog).targets[0]
    assert target.wire.is_relay, "a provider with Claude models has the Messages API"
    if creates_batch:
        if engine.inspectors:
            incoming, _ = await _inspect(engine, incoming, sink.wait_disconnected, is_batch=True)
        incoming = await _with_mapped_models(engine, incoming, target)
    request = MessagesRequest(model=target.model, messages=[], has_proxy_signatures=False, has_invalid_calls=False)
    is_download = path.endswith("/content")
    wait_disconnected = sink.wait_disconnected
    results: ForwardedResults | None = None
    if path.startswith(BATCHES_PATH) and path.endswith("/results"):
        results = ForwardedResults(engine, incoming, target)
        incoming = _request_all_results(incoming)
        wait_disconnected = partial(results.wait_until_useless, sink.wait_disconnected)
    call = build_relay_call(incoming, request, target)

    async def forward(response: UpstreamResponse, watchdog: Watchdog) -> None:
        if not is_download:
            require_api_response(response, target, engine.settings)
        given = {name.lower(): value for name, value in response.headers.items()}
        headers = forwarded_headers(response.headers)
        headers["content-type"] = given.get("content-type", "application/json")
        if is_download:
            headers |= {"content-disposition": given.get("content-disposition", "attachment"), **_SAFE_HEADERS}
            if "content-range" in given:  # of a response with status 206
                headers["content-range"] = given["content-range"]
        send_bytes = partial(sink.send_relayed_bytes, headers=headers, status=response.status)
        if is_download or results is not None:
            if results is not None:
                results.has_begun = response.status == 200  # of a part, the other results are not known
            while piece := await response.read():
                watchdog.note_content()
                watchdog.begin_write()
                await send_bytes(piece, is_stream=True, is_last=False)
                watchdog.end_write()
                if results is not None:
                    await results.feed(piece)
            watchdog.end_upstream_call()
            watchdog.begin_write()
            await send_bytes(b"", is_stream=True, is_last=True)
        else:
            body = await read_body(response, MAX_BODY_BYTES, watchdog.note_content)
            watchdog.end_upstream_call()
            if path.startswith(BATCHES_PATH):
                is_large = len(body) > MAX_REPLY_BYTES_ON_LOOP
                body = await incoming.background.run_in_thread_if_large(is_large, remove_results_host, body)
            watchdog.begin_write()
            await send_bytes(body, is_stream=False, is_last=True)
        watchdog.stop()  # complete: a disconnect has no effect now
        if results is not None:
            await results.count()

    try:
        await call_provider(
            engine,
            incoming,
            request,
            call,
            target,
            admission=admission,
            read=forward,
            wait_disconnected=wait_disconnected,
            method=method,
            uses_first_key=True,
        )
    finally:
        if results is not None:
            await results.close()


def _request_all_results(incoming: ClientRequest) -> ClientRequest:
    """Return the request for results of a batch without what selects a part: only complete results can be counted."""
    headers = {name: value for name, value in incoming.headers.items() if name not in _PARTIAL_HEADERS}
    parameters = (each for each in incoming.query.split("&") if each.partition("=")[0] == "beta")
    return structs.replace(incoming, headers=headers, query="&".join(parameters))


async def _with_mapped_models(engine: Engine, incoming: ClientRequest, target: Target) -> ClientRequest:
    routes = engine.compiled_routes
    refused = frozenset(engine.observations.list_refused_thinking(incoming.receipt.client.id))
    known = dict[str, tuple[RelayCall[BaseDialect], NoteCheck]]()

    def build_call(path: str, model: str, params: bytes) -> tuple[RelayCall[BaseDialect], NoteCheck]:
        if model in known:
            return known[model]
        query = RoutingQuery(model)
        if routes is not None:
            try:
                request = decode_request_or_envelope(params)
            except ClientError as error:
                raise InvalidRequest(f"{path}.{error.message}", code=error.code, quotes=error.quotes) from None
            route = match_route(engine, routes, incoming, request, EstimateCache()).route
            query = RoutingQuery(request.model, server_tool_kinds(request.tools), route)
        plan = engine.plan_cache.find_plan(query, engine.settings, engine.catalog)
        found = plan.targets[0]
        if found.provider is not target.provider:
            field = f"{path}.model"
            mapped = f"{found.provider.prefix}/{found.model}"
            mapped += f" by the route {query.route.name!r}" if query.route is not None else ""
            raise InvalidRequest(
                f"{field}: {model!r} is mapped to {mapped}. A batch is sent to {target.provider.prefix}, so each "
                f"of its models must be one of {target.provider.prefix}.",
                code="model-of-a-batch",
            )
        named = MessagesRequest(model=model, messages=[])
        call = build_relay_call(structs.replace(incoming, body=b""), named, found, refused)
        if plan.fidelity == "strict":
            incoming.receipt.fidelity.mode = "strict"

        def check_notes(notes: Collection[FidelityNote]) -> None:
            report = FidelityReport(plan.fidelity)
            report.add_notes(notes)
            require_lossless(report, found)

        if routes is None:
            known[model] = call, check_notes
        return call, check_notes

    # always in a thread: a small body may have many requests, and each may need a comparison with all routes
    body, notes = await incoming.background.run_in_thread(encode_batch, incoming.body, build_call)
    incoming.receipt.fidelity.add_notes(notes)
    options = engine.settings.call_options.get(target.provider.name)
    if options is not None and options.body:
        body = await incoming.background.run_in_thread(merge_batch, body, options.body)
    return structs.replace(incoming, body=body)
