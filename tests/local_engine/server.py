"""`python -m tests.local_engine.server <model> <key> [port]`: llama.cpp's server; prints its address, SIGTERM ends it.

A model that does not exist is written.
"""

import signal
import sys
import threading
from pathlib import Path

import xllamacpp  # type: ignore[import-not-found]  # scripts/ci.py engine has it

from tests.local_engine.model import WINDOW, write_model


def main(model: str, key: str, port: str = "0") -> None:
    """Serve until the process is stopped."""
    if not Path(model).exists():
        write_model(Path(model))
    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.model_alias = {"tiny"}
    settings.n_ctx = WINDOW
    settings.n_parallel = 1
    settings.n_gpu_layers = 0
    settings.cpuparams.n_threads = 1
    settings.hostnames = ["127.0.0.1"]
    settings.port = int(port)
    settings.api_keys = [key]
    settings.endpoint_slots = True
    settings.use_jinja = True
    settings.warmup = False
    server = xllamacpp.Server(settings)
    print(f"listening on {server.listening_address}", flush=True)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
