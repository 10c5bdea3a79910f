"""Command `conformance`: the suite `messages-conformance`, which checks any server with the Messages API."""

import sys
from typing import Annotated

from cyclopts import Parameter

from anthropic_proxy.engine.platforms.program import name_program
from messages_conformance.__main__ import main

_Words = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]


def check_conformance(*words: _Words) -> None:
    sys.exit(main(words or ("--help",), name_program("anthropic-proxy conformance")))
