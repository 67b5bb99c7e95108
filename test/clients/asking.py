"""The protocol between a script of this folder and the program that runs it: each turn is a line of JSON on standard input, and its
answer, or why there is none, a line of JSON on standard output."""

import asyncio
import json
import sys
import traceback


async def answer_all(ask):
    """Answers all turns with a coroutine function from the text of a turn to the text of its answer."""
    for line in iter(sys.stdin.readline, ""):
        try:
            told = {"text": await ask(json.loads(line))}
        except Exception as error:
            traceback.print_exc()
            told = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(told), flush=True)


def run(ask):
    """The same, for a function that is no coroutine or one that is."""

    async def asked(text):
        answer = ask(text)
        return await answer if asyncio.iscoroutine(answer) else answer

    asyncio.run(answer_all(asked))
