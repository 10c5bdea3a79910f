"""Sign a file with facts about models for `anthropic-proxy models update`, or make a pair of keys.

    sign_models.py KEY OUTPUT [FILE]    sign FILE, by default the facts of this checkout
    sign_models.py --new-key KEY        write a new private key, and print the public one

KEY is a file with a private key (Ed25519, PEM), which never belongs into the repository. FACTS_KEY in
anthropic_proxy/gateway/settings/facts_file.py is the public one.
"""

import base64
import os
import sys
from pathlib import Path

from environments import ROOT

FACTS = "anthropic_proxy/engine/providers/models.toml"


def write_key(file: str) -> None:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  # only .venv has it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    key = Ed25519PrivateKey.generate()
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    with open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as stream:
        stream.write(key.private_bytes(*form))
    print(base64.b64encode(key.public_key().public_bytes_raw()).decode())


def sign(key_file: str, output: str, source: str) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    from anthropic_proxy.gateway.settings.facts_file import SIGNATURE_LINE, read_signed_facts  # noqa: PLC0415

    key = load_pem_private_key(Path(key_file).read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        sys.exit(f"{key_file} has no Ed25519 key")
    content = Path(source).read_bytes().rstrip(b"\n") + b"\n"
    signed = content[:-1] + SIGNATURE_LINE + base64.b64encode(key.sign(content)) + b"\n"
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    facts = read_signed_facts(signed, source, public)  # the same check as in an installation
    Path(output).write_bytes(signed)
    print(f"{output}: facts of {facts.date}, for the public key {public}")


match sys.argv[1:]:
    case ["--new-key", key]:
        write_key(key)
    case [key, output]:
        sign(key, output, str(ROOT / FACTS))
    case [key, output, source]:
        sign(key, output, source)
    case _:
        sys.exit(__doc__)
