"""`python -m tests.local_engine.server MODEL KEY [PORT [WINDOW]]`: llama.cpp's server; SIGTERM ends it.

It prints its address.

A model that does not exist is written. Without a key, the server is as a person starts it with a file only: the name of
the model is its path, and its replies end by themselves.
"""

import signal
import sys
import threading
from pathlib import Path

import xllamacpp  # type: ignore[import-not-found]  # scripts/ci.py engine has it

from tests.local_engine.model import WINDOW, write_model


def main(model: str, key: str, port: str = "0", window: str = str(WINDOW)) -> None:
    """Serve until the process is stopped."""
    if not Path(model).exists():
        write_model(Path(model), max(WINDOW, int(window)), ends=not key)
    settings = xllamacpp.CommonParams()
    settings.model.path = model
    if key:
        settings.model_alias = {"tiny"}
        settings.api_keys = [key]
    settings.n_ctx = int(window)
    settings.n_parallel = 1
    settings.n_gpu_layers = 0
    settings.cpuparams.n_threads = 1
    settings.hostnames = ["127.0.0.1"]
    settings.port = int(port)
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
