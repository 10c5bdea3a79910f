"""Files with facts about models, signed with a key of the tests."""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from anthropic_proxy.engine.providers.model_facts import FACTS, FACTS_FILE, load_built_in_facts
from anthropic_proxy.gateway.settings.facts_file import SIGNATURE_LINE

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC_KEY = base64.b64encode(KEY.public_key().public_bytes_raw()).decode()
BUILT_IN = FACTS_FILE.read_text(encoding="utf-8")


def sign(text: str, key: Ed25519PrivateKey = KEY) -> bytes:
    content = text.encode()
    return content.rstrip(b"\n") + SIGNATURE_LINE + base64.b64encode(key.sign(content)) + b"\n"


def write_facts(*changes: tuple[str, str], day: str = "2027-01-15") -> str:
    """Return the facts of this release with another date and other values. Each text to change occurs once."""
    text = re.sub(r"^date = .*$", f"date = {day}", BUILT_IN, count=1, flags=re.MULTILINE)
    for before, after in changes:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


@contextmanager
def restored_facts() -> Iterator[None]:
    """Afterwards, the facts of this release are in force again."""
    try:
        yield
    finally:
        FACTS.replace(load_built_in_facts())
