from tests.fakes.anthropic.server import KEY, new_anthropic
from tests.fakes.skeleton import run

if __name__ == "__main__":
    run("A strict stand-in for Anthropic's Messages API.", lambda chosen, log: new_anthropic(log, chosen.key or KEY))
