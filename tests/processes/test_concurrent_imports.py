"""A thread loads a library while another thread loads a module that uses it: both succeed.

The writer of the ledger and the first page of the dashboard do this. Python returns a partially initialized package to
one of two threads that wait for each other, and later imports of the library then fail too.
"""

import subprocess
import sys

import pytest

PROGRAM = """
import importlib, sys, threading, traceback

library, module = sys.argv[1:]
started, ended = threading.Event(), threading.Event()
file = library.replace(".", "/") + "/__init__.py"

def pause(event, arguments):
    if event == "exec" and threading.current_thread() is threads[0] and not started.is_set():
        if arguments[0].co_filename.replace(chr(92), "/").endswith(file):
            started.set()
            ended.wait(1.0)  # the other thread waits for the library, unless it fails

def load_library():
    importlib.import_module(library)

def load_module():
    started.wait()
    importlib.import_module(module)

def report(load):
    try:
        load()
    except BaseException:
        traceback.print_exc()
    ended.set()

sys.addaudithook(pause)
threads = [threading.Thread(target=report, args=[load]) for load in (load_library, load_module)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("paused:", started.is_set())
"""
"""The first thread loads `library` and pauses in the first line of its package. The second one then loads `module`."""


@pytest.mark.parametrize(
    ("library", "module"),
    [
        ("sqlalchemy", "anthropic_proxy.console.dashboard.site"),
        ("sqlalchemy", "anthropic_proxy.console.ledger.api"),
        ("sqlalchemy", "anthropic_proxy.console.ledger.engines"),
    ],
)
def test_a_module_is_loaded_while_another_thread_loads_its_library(library: str, module: str) -> None:
    command = [sys.executable, "-c", PROGRAM, library, module]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("paused: True\n", "")
