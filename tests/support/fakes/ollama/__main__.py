from tests.support.fakes.ollama.server import new_ollama
from tests.support.fakes.server import run

if __name__ == "__main__":
    run("A strict stand-in for Ollama.", lambda chosen, log: new_ollama(log, chosen.key))
