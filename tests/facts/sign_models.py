"""`python3 scripts/sign_models.py` signs a file with facts about models, or makes a pair of keys."""

import base64
import os
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from anthropic_proxy.engine.providers.model_facts import FACTS_FILE
from anthropic_proxy.gateway.settings.facts_file import SIGNATURE_LINE, read_signed_facts


def write_key(file: str) -> None:
    key = Ed25519PrivateKey.generate()
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    with open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as stream:
        stream.write(key.private_bytes(*form))
    print(base64.b64encode(key.public_key().public_bytes_raw()).decode())


def sign(key_file: str, output: str, source: str) -> None:
    key = serialization.load_pem_private_key(Path(key_file).read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        sys.exit(f"{key_file} has no Ed25519 key")
    content = Path(source).read_bytes().rstrip(b"\n") + b"\n"
    signed = content[:-1] + SIGNATURE_LINE + base64.b64encode(key.sign(content)) + b"\n"
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    facts = read_signed_facts(signed, source, public)  # the same check as in an installation
    Path(output).write_bytes(signed)
    print(f"{output}: facts of {facts.date}, for the public key {public}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--new-key", key]:
            write_key(key)
        case [key, output]:
            sign(key, output, str(FACTS_FILE))
        case [key, output, source]:
            sign(key, output, source)
