from tests.support.fakes.openai_responses.server import KEY, new_openai
from tests.support.fakes.server import run

if __name__ == "__main__":
    run("A strict stand-in for OpenAI's Responses.", lambda chosen, log: new_openai(log, chosen.key or KEY))
