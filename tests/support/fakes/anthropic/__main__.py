from tests.support.fakes.anthropic.server import KEY, new_anthropic
from tests.support.fakes.server import run

if __name__ == "__main__":
    run("A strict stand-in for Anthropic's Messages API.", lambda chosen, log: new_anthropic(log, chosen.key or KEY))
