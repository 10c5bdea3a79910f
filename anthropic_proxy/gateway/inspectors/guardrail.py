"""`GuardrailInspector`: asks a service with the generic guardrail API of LiteLLM.

The service gets a list of texts and answers with one of three actions: `NONE`, `BLOCKED` with a reason, or
`GUARDRAIL_INTERVENED` with the changed texts. Source: docs.litellm.ai/docs/adding_provider/generic_guardrail_api, read
2026-11. A conversation repeats its texts in each request, so a text that the service has let pass is not sent again.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from itertools import islice
from typing import Any, Literal

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.errors import UpstreamProtocolError, UpstreamUnreachable
from anthropic_proxy.gateway.http_calls import HttpCalls
from anthropic_proxy.gateway.settings.fields import InspectorRule
from anthropic_proxy.plugins import HttpReply, InspectedTexts, InspectorScope, Redaction, Refusal

PATH = "/beta/litellm_basic_guardrail_api"
MAX_REMEMBERED_TEXTS = 50_000
"""Maximum number of texts of which this process remembers that they have passed: 16 bytes for each."""
RETRY_SECONDS = 0.5
"""Pause before the second request, if the service cannot be reached or is overloaded. There is no third one."""
_TEMPORARY_STATUSES = (429, 500, 502, 503, 504)
_REMOVED = "[text]"
"""In place of a text that the service makes empty: providers reject empty texts."""
_DEFAULT_REASON = "The text must not be sent, by a rule of this proxy."


class _Answer(Struct):
    action: Literal["NONE", "BLOCKED", "GUARDRAIL_INTERVENED"]
    blocked_reason: str | None = None
    texts: list[str] | None = None


class GuardrailInspector:
    def __init__(self, rule: InspectorRule, http: HttpCalls) -> None:
        """`http`: the connections to other servers."""
        self.scope: InspectorScope = rule.build_scope(holds_blocks=True)
        self.rule = rule
        self._http = http
        self._passed: dict[bytes, None] = {}
        """Digests of texts that have passed, the latest at the end."""

    def replace_http(self, http: HttpCalls) -> None:
        """Call the service by other connections from now on, after a reload."""
        self._http = http

    async def inspect(self, texts: InspectedTexts) -> Refusal | Sequence[Redaction]:
        remembers = self.rule.table.sends == "new texts"
        # the service also decides by client and model, so a text that one client may send is asked again for another
        common = (texts.client.name, texts.client.owner, texts.client.team, texts.model, texts.part)
        # quoted, so that no part of the name of a model stands for the beginning of a text
        facts = (f"{(*common, passage.kind)!r}{passage.text}" for passage in texts.passages if remembers)
        digests = [hashlib.blake2b(fact.encode(errors="surrogatepass"), digest_size=16).digest() for fact in facts]
        places = [place for place in range(len(texts.passages)) if not (remembers and digests[place] in self._passed)]
        if not places:
            return []
        answer = await self._ask(texts, [texts.passages[place].text for place in places])
        if answer.action == "BLOCKED":
            return Refusal("blocked", answer.blocked_reason or _DEFAULT_REASON)
        changed: list[Redaction] = []
        if answer.action == "GUARDRAIL_INTERVENED":
            for place, new in zip(places, answer.texts or (), strict=False):
                old = texts.passages[place].text
                if new != old and old:
                    changed.append(Redaction(place, 0, len(old), "text", new or _REMOVED))
        if remembers:
            self._passed |= dict.fromkeys(digests[place] for place in {*places} - {one.passage for one in changed})
            for digest in [*islice(self._passed, max(len(self._passed) - MAX_REMEMBERED_TEXTS, 0))]:
                del self._passed[digest]
        return changed

    def find_open_end(self, _: str) -> int:
        return 0

    async def _ask(self, texts: InspectedTexts, sent: Sequence[str]) -> _Answer:
        rule, client = self.rule, texts.client
        body: dict[str, Any] = {
            "texts": sent,
            "request_data": {
                "user_api_key_alias": client.name,
                "user_api_key_user_id": client.owner,
                "user_api_key_team_alias": client.team,
            },
            "input_type": "request" if texts.part == "request" else "response",
            "litellm_call_id": texts.request_id,
            "model": texts.model,
            "additional_provider_specific_params": rule.table.parameters,
        }
        headers = {"content-type": "application/json", "accept": "application/json"}
        if rule.key is not None:
            headers["x-api-key"] = rule.key.reveal()
        encoded = msgspec.json.encode(body)
        try:
            reply = await self._send(headers, encoded)
        except UpstreamUnreachable:
            reply = None
        if reply is None or reply.status in _TEMPORARY_STATUSES:  # a restart of the service fails no request
            await asyncio.sleep(RETRY_SECONDS)
            reply = await self._send(headers, encoded)
        if reply.status != 200:
            raise UpstreamProtocolError(f"the guardrail service answered with status {reply.status}")
        try:
            answer = decode_json(reply.body, _Answer)
        except InvalidJson as error:
            raise UpstreamProtocolError(f"the answer of the guardrail service cannot be read: {error}") from None
        if answer.action == "GUARDRAIL_INTERVENED" and (answer.texts is None or len(answer.texts) != len(sent)):
            raise UpstreamProtocolError(
                "the answer of the guardrail service does not have one text for each that was sent"
            )
        return answer

    async def _send(self, headers: dict[str, str], body: bytes) -> HttpReply:
        max_bytes = len(body) + 1024 * 1024
        return await self._http.send_http(
            "POST", self.rule.base_url + PATH, headers, body, max_bytes=max_bytes, purpose="guardrail"
        )
