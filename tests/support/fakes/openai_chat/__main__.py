from tests.support.fakes.openai_chat.server import KEY, new_openai
from tests.support.fakes.server import run

if __name__ == "__main__":
    run("A strict stand-in for OpenAI's Chat Completions.", lambda chosen, log: new_openai(log, chosen.key or KEY))
