"""`InspectorCalls`: what the inspectors decide about texts, with their limits, and the placeholders of redactions.

The placeholder of a text is a keyed hash of client and text: the same text has the same placeholder in all requests of
a client, so that prompt caches and signatures of thinking stay valid, and nobody can compute the text of a
placeholder, or the placeholder of a text.
"""

import asyncio
import hmac
import time
import traceback
from bisect import insort
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import structs

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.final_calls import PLACEHOLDER, RestoredArguments
from anthropic_proxy.engine.exchange.inspection.texts import (
    MAX_RESTORED_CHARACTERS,
    HiddenTexts,
    PlacedText,
    read_arguments,
    restore_arguments,
    restore_text,
)
from anthropic_proxy.engine.hooks import (
    InspectedPart,
    InspectedTexts,
    InspectionDecision,
    InspectionRecord,
    Inspector,
    Passage,
    PassageKind,
    Receipt,
    Redaction,
    Refusal,
)
from anthropic_proxy.engine.inspected_texts import digest_passages, digest_together
from anthropic_proxy.engine.messages.events import replace_surrogates
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.slices import MAX_REPLY_BYTES_ON_LOOP
from anthropic_proxy.engine.wires.failures.quoted_prompts import count_bytes_on_loop, find_quoted_texts
from anthropic_proxy.errors import InspectorUnavailable, PolicyBlocked, ProxyError, WorkerBusy

MAX_REDACTIONS = 10_000
"""Maximum number of redactions in the texts that are inspected together."""
MAX_KINDS = 20
"""Maximum number of kinds in one record. Further ones are counted as `other`."""
MAX_KIND_CHARACTERS = 40
MAX_OPEN_CHARACTERS = 65_536
"""Maximum number of characters of a reply that wait because a redaction may reach them, unless whole blocks wait."""
MAX_REASON_CHARACTERS = 500
_BEGINNING = "REDACTED_"
_MAX_PLACEHOLDER = len(_BEGINNING) + MAX_KIND_CHARACTERS + 17
_OPEN_PLACEHOLDER = compile_anchored(r"REDACTED_[A-Z_]{0,41}[0-9a-f]{0,15}")
_NOT_LETTERS = compile_later(r"[^A-Z]+")
_SERIOUSNESS: Sequence[InspectionDecision] = ("passed", "redacted", "failed", "refused")


class ReplyRefused(Exception):  # no failure
    """An inspector has refused the rest of a reply."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def details(self) -> dict[str, str | None]:
        """Object `stop_details` of the reply."""
        return {"type": "refusal", "category": None, "explanation": self.reason}


class InspectorCalls:
    """The calls of the inspectors for one client request. `model`: model id in the client request."""

    def __init__(self, engine: Engine, receipt: Receipt, model: str) -> None:
        self._engine = engine
        self._receipt = receipt
        self._background = engine.background.of(receipt.client.payer)
        self._model = model
        self._scopes = [(inspector, inspector.scope) for inspector in engine.inspectors]
        self._key = b""
        """Key of the placeholders of the client. b"": not needed so far."""
        self.values: dict[str, str] = {}
        """Placeholder → the text that it stands for."""
        self._hidden_texts = HiddenTexts(self.values)
        self.has_replaced = False
        """True if a text of the request was replaced by other words than a placeholder."""
        self.has_replaced_call = False
        """True if it is a text in the arguments of a tool call."""
        self._records: dict[tuple[str, InspectedPart], InspectionRecord] = {}
        self.restored: set[str] = set()
        """The values that the client got in its reply."""
        self.spellings: list[tuple[bytes, bytes, bytes]] = []
        """How each is written in arguments and in other JSON, and its placeholder, the longest first."""
        self.readers = [(inspector, scope) for inspector, scope in self._scopes if scope.replies]
        """The inspectors of replies, in the order of their calls."""
        self.describes_tools = any(scope.tool_descriptions for _, scope in self._scopes)

    @property
    def changes_replies(self) -> bool:
        """True if the reply passes the inspection at all."""
        return bool(self.readers or self.values)

    async def inspect_request(self, texts: Sequence[PlacedText], *, is_added: bool = False) -> None:
        """Apply the redactions to the texts of a request. `is_added`: the proxy adds them to it. A decision about an
        equal text of the client is then kept, so that nothing is inspected twice.

        Raises `PolicyBlocked` if an inspector refuses it, and `InspectorUnavailable` if one has failed.
        Also raises `WorkerBusy`.
        """
        for inspector, scope in self._scopes:
            if scope.requests:
                read = [one for one in texts if scope.tool_descriptions or one.passage.kind != "tool_description"]
                await self._redact_all(inspector, "request", read, keeps=is_added)

    async def inspect_added(self, texts: Sequence[str], kind: PassageKind) -> list[str]:
        """Return texts that the proxy adds to the request, as they leave. Raises like `inspect_request`."""
        placed = [PlacedText(0, 0, Passage(text, kind)) for text in texts]
        await self.inspect_request([one for one in placed if one.passage.text], is_added=True)
        return [one.passage.text for one in placed]

    async def inspect_reply(self, texts: Sequence[PlacedText]) -> None:
        """Apply the redactions to complete texts of the reply. Raises `ReplyRefused` and `InspectorUnavailable`."""
        for inspector, _ in self.readers:
            await self._redact_all(inspector, "reply", texts)

    async def inspect_text(self, inspector: Inspector, passage: Passage) -> str:
        """Return a complete text of the reply as an inspector leaves it. Raises like `inspect_reply`."""
        text = PlacedText(0, 0, passage)
        await self._redact_all(inspector, "reply", [text])
        return text.passage.text

    async def inspect_beginning(self, inspector: Inspector, passage: Passage) -> tuple[str, str]:
        """Return what can be shown of an incomplete text of the reply, and the rest. Raises like `inspect_reply`."""
        text = passage.text
        try:
            end = max(inspector.find_open_end(text), len(text) - MAX_OPEN_CHARACTERS, 0)
        except Exception:  # noqa: BLE001  # a defect of a plugin
            await self._write_traceback("reply", [passage])
            end = max(len(text) - MAX_OPEN_CHARACTERS, 0)
        if not end:
            return "", text
        (found,) = await self._decide(inspector, "reply", [passage])
        found = [one for one in found if one.start < end]
        end = max(end, *(one.end for one in found)) if found else end
        return await self._redact(inspector, "reply", text[:end], found), text[end:]

    async def inspect_arguments(self, arguments: str, name: str) -> str:
        """Return the arguments of a call of the reply as the inspectors leave them. Raises like `inspect_reply`."""
        if not self.readers:
            return arguments
        found = read_arguments(arguments, name)
        await self.inspect_reply(found.texts)
        return found.encode().decode() if any(text.is_changed for text in found.texts) else arguments

    def restore_arguments(self, arguments: str) -> RestoredArguments:
        """Return the arguments of a call with values in place of the placeholders of this request."""
        if _BEGINNING not in arguments and "\\u" not in arguments:  # no escape hides it
            return RestoredArguments(arguments, {})
        restored = restore_arguments(arguments, self._hidden_texts)
        self._note_restored(restored.hidden)
        return restored

    def restore(self, text: str) -> str:
        """Return a text with values in place of the placeholders of this request.

        The reply to a request of the proxy's own keeps them: nobody runs it, and parts of it are recorded.
        """
        if self._receipt.parent or _BEGINNING not in text:
            return text
        hidden: dict[str, str] = {}
        restored = restore_text(text, self._hidden_texts, hidden)
        self._note_restored(hidden)
        return restored

    def _note_restored(self, hidden: Mapping[str, str]) -> None:
        if self._hidden_texts.has_left_some:
            what = f"placeholders stay: their texts have more than {MAX_RESTORED_CHARACTERS:,} characters"
            self._receipt.fidelity.add_notes([FidelityNote("dropped", "reply", what)])
        for placeholder, value in hidden.items():
            if value not in self.restored:
                self.restored.add(value)
                in_text = msgspec.json.encode(value)[1:-1]
                in_arguments = msgspec.json.encode(in_text.decode())[1:-1]
                # the longest first: it may have another one inside
                insort(self.spellings, (in_arguments, in_text, placeholder.encode()), key=lambda one: -len(one[1]))

    def find_open_placeholder(self, text: str) -> int:
        """Return the place from which on the end of an incomplete text may be a part of a placeholder."""
        start = max(len(text) - _MAX_PLACEHOLDER, 0)
        place = text.find("R", start)
        while place >= 0:
            end = text[place:]
            if _BEGINNING.startswith(end) or _OPEN_PLACEHOLDER.fullmatch(end):
                return place
            place = text.find("R", place + 1)
        return len(text)

    async def _redact_all(
        self, inspector: Inspector, part: InspectedPart, texts: Sequence[PlacedText], *, keeps: bool = False
    ) -> None:
        """`keeps`: see `_decide`."""
        if texts:
            decided = await self._decide(inspector, part, [one.passage for one in texts], keeps=keeps)
            for text, found in zip(texts, decided, strict=True):
                if found:
                    text.replace(await self._redact(inspector, part, text.passage.text, found))
                    has_words = any(redaction.replacement is not None for redaction in found)
                    self.has_replaced_call |= has_words and part == "request" and text.passage.kind == "tool_call"

    async def _decide(
        self, inspector: Inspector, part: InspectedPart, passages: Sequence[Passage], *, keeps: bool = False
    ) -> Sequence[Sequence[Redaction]]:
        """Return the redactions of each passage, and record what the inspector has decided.

        `keeps`: earlier decisions about equal passages count, and new ones are kept.
        """
        scope = inspector.scope
        record = self._find_record(scope.name, part)
        started_at = time.monotonic()
        try:
            ask = self._find_or_ask if keeps else self._ask
            found = await ask(inspector, part, passages)
            # equal texts were asked for once, and each has the redactions
            if keeps and not isinstance(found, Refusal) and sum(map(len, found)) > MAX_REDACTIONS:
                raise _InspectionFailure("too many redactions")  # noqa: TRY301
        except _InspectionFailure as failure:
            self._note(record, "failed")
            record.failure = failure.kind
            if not scope.fails_open:
                raise failure.build_error(scope.name, part) from None
            return [()] * len(passages)
        except WorkerBusy as busy:  # other requests are the cause: the client may try again, and nothing passes unread
            self._note(record, "failed")
            record.failure = type(busy).__name__
            raise
        finally:
            record.seconds += time.monotonic() - started_at
        if not isinstance(found, Refusal):
            return found
        self._note(record, "refused", found.kind)
        reason = replace_surrogates(found.reason[:MAX_REASON_CHARACTERS])
        if part == "reply":
            raise ReplyRefused(reason)
        quotes = {} if found.is_of_operator else await self._find_quotes(reason, part, passages)
        raise PolicyBlocked(reason, quotes=quotes)

    async def _find_quotes(self, told: str, part: InspectedPart, passages: Sequence[Passage]) -> Mapping[str, str]:
        """Return the words of inspected texts that an inspector has told, which nobody stores."""
        texts = [passage.text for passage in passages]
        is_large = len(told) > count_bytes_on_loop(sum(map(len, texts)))
        return await self._background.run_in_thread_if_large(is_large, find_quoted_texts, told, texts, part)

    async def _write_traceback(self, part: InspectedPart, passages: Sequence[Passage]) -> None:
        """Log the exception that is being handled, whose text may quote what the inspector has read."""
        quotes = await self._find_quotes(traceback.format_exc(), part, passages)
        self._engine.log.write_traceback(self._receipt.request_id, quotes)

    def _find_record(self, name: str, part: InspectedPart) -> InspectionRecord:
        record = self._records.get((name, part))
        if record is None:
            record = self._records[name, part] = InspectionRecord(name, part, "passed")
            self._receipt.inspections = [*self._receipt.inspections, record]
        return record

    async def _find_or_ask(
        self, inspector: Inspector, part: InspectedPart, passages: Sequence[Passage]
    ) -> Refusal | Sequence[Sequence[Redaction]]:
        """Like `_ask`, which gets only the passages about which nothing is known."""
        client, kept = self._receipt.client, self._engine.inspected_texts
        is_large = sum(len(passage.text) for passage in passages) > MAX_REPLY_BYTES_ON_LOOP
        owner = f"{client.payer}\n{client.id}"  # an inspector is told the key, and may decide by it
        digest = self._background.run_in_thread_if_large
        keys = await digest(is_large, digest_passages, owner, self._model, passages)
        found = {key: kept.find(inspector, key) for key in keys}
        new = {key: passage for key, passage in zip(keys, passages, strict=True) if found[key] is None}
        if new:
            together = digest_together([*new])
            if isinstance(refusal := kept.find(inspector, together), Refusal):
                return refusal
            decided = await self._ask(inspector, part, [*new.values()])
            if isinstance(decided, Refusal):
                kept.keep(inspector, together, decided)
                return decided
            for key, redactions in zip(new, decided, strict=True):
                kept.keep(inspector, key, redactions)
                found[key] = redactions
        decisions = [found[key] for key in keys]
        return [() if one is None or isinstance(one, Refusal) else one for one in decisions]

    async def _ask(
        self, inspector: Inspector, part: InspectedPart, passages: Sequence[Passage]
    ) -> Refusal | Sequence[Sequence[Redaction]]:
        """Return the refusal, or the redactions of each passage. Raises `_InspectionFailure` and `WorkerBusy`."""
        scope = inspector.scope
        log, receipt = self._engine.log, self._receipt
        if sum(len(passage.text) for passage in passages) > scope.max_characters:
            raise _InspectionFailure("too large")
        texts = InspectedTexts(
            part=part, passages=[*passages], client=receipt.client, request_id=receipt.request_id, model=self._model
        )
        try:
            async with asyncio.timeout(None if scope.limits_itself else scope.timeout_seconds) as limit:
                found = await inspector.inspect(texts)
            if limit.expired():  # the inspector has not ended at its cancellation
                raise TimeoutError  # noqa: TRY301
            decided = _read_decision(found)
            return decided if isinstance(decided, Refusal) else _sort(decided, passages)
        except TimeoutError:
            log.write_once(f"Inspector {scope.name}: no decision within {scope.timeout_seconds:g} s", "warning")
            raise _InspectionFailure("timeout") from None
        except WorkerBusy:
            raise
        except ProxyError as error:
            error.quotes = {**error.quotes, **await self._find_quotes(error.message, part, passages)}
            log.write_once(f"Inspector {scope.name}: {error.stored_message}", "warning")
            raise _InspectionFailure(type(error).__name__) from None
        except _InspectionFailure:
            raise
        except Exception as error:  # noqa: BLE001  # a defect of a plugin
            await self._write_traceback(part, passages)
            raise _InspectionFailure(type(error).__name__) from None

    async def _redact(
        self, inspector: Inspector, part: InspectedPart, text: str, redactions: Sequence[Redaction]
    ) -> str:
        record = self._find_record(inspector.scope.name, part)
        pieces: list[str] = []
        end = 0
        for one in redactions:
            self._note(record, "redacted", one.kind)
            new = one.replacement
            self.has_replaced |= new is not None and part == "request"
            if new is None and part == "request":
                new = await self._keep(one.kind, text[one.start : one.end])
            pieces += (text[end : one.start], replace_surrogates(f"[{one.kind}]" if new is None else new))
            end = one.end
        return "".join((*pieces, text[end:]))

    async def _keep(self, kind: str, text: str) -> str:
        """Return the placeholder of a text, whose own placeholders of earlier inspectors are replaced."""
        text = PLACEHOLDER.sub(lambda match: self.values.get(match[0], match[0]), text)
        if not self._key:
            await self._engine.own_keys.open(self._engine.store)
            self._key = self._engine.own_keys.derive("placeholders", self._receipt.client.payer)
        digest = hmac.new(self._key, text.encode(errors="surrogatepass"), "sha256").hexdigest()[:16]
        word = _NOT_LETTERS.sub("_", kind.upper()).strip("_")[:MAX_KIND_CHARACTERS] or "TEXT"
        placeholder = f"{_BEGINNING}{word}_{digest}"
        self.values[placeholder] = text
        return placeholder

    def _note(self, record: InspectionRecord, decision: InspectionDecision, kind: str = "") -> None:
        record.decision = max(record.decision, decision, key=_SERIOUSNESS.index)
        if kind:
            kind = replace_surrogates(kind[:MAX_KIND_CHARACTERS])
            if kind not in record.kinds and len(record.kinds) >= MAX_KINDS:
                kind = "other"
            record.kinds[kind] = record.kinds.get(kind, 0) + 1


class _InspectionFailure(Exception):  # becomes a `ProxyError`, or nothing
    """An inspector gave no decision. `kind`: see `InspectionRecord.failure`."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind

    def build_error(self, name: str, part: InspectedPart) -> Exception:
        if self.kind == "too large":
            message = f"The {part} is too long for the inspector {name} of this proxy, which must read it before."
            if part == "reply":
                return ReplyRefused(message)
            return PolicyBlocked(message)
        return InspectorUnavailable(
            f"The inspector {name} of this proxy, which must read each {part}, is not available. Try again in a moment."
        )


def _read_decision(found: object) -> Refusal | list[Redaction]:
    """Return what an inspector has decided. Raises `_InspectionFailure` for values of other types than it may return.

    Another package may have made the objects, and structs do not check the types of their fields.
    """
    try:
        if isinstance(found, Refusal):
            return msgspec.convert(structs.asdict(found), Refusal)
        if isinstance(found, list | tuple):
            return [msgspec.convert(structs.asdict(one), Redaction) for one in found[: MAX_REDACTIONS + 1]]
    except (TypeError, msgspec.ValidationError):
        pass
    raise _InspectionFailure("invalid decision")


def _sort(redactions: Sequence[Redaction], passages: Sequence[Passage]) -> Sequence[Sequence[Redaction]]:
    """Return the redactions of each passage in their order. Raises `_InspectionFailure` for impossible ones."""
    if len(redactions) > MAX_REDACTIONS:
        raise _InspectionFailure("too many redactions")
    by_passage: list[list[Redaction]] = [[] for _ in passages]
    for redaction in redactions:
        if not 0 <= redaction.passage < len(passages):
            raise _InspectionFailure("invalid redaction")
        by_passage[redaction.passage].append(redaction)
    for ordered, passage in zip(by_passage, passages, strict=True):
        ordered.sort(key=lambda redaction: redaction.start)
        end = 0
        for redaction in ordered:
            if not end <= redaction.start < redaction.end <= len(passage.text):
                raise _InspectionFailure("invalid redaction")
            end = redaction.end
    return by_passage
