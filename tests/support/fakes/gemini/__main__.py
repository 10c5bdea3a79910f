from tests.support.fakes.gemini.server import KEY, new_gemini
from tests.support.fakes.server import run

if __name__ == "__main__":
    run("A strict stand-in for Gemini.", lambda chosen, log: new_gemini(log, chosen.key or KEY))
