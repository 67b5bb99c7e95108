"""Conversations of an agent with a tool, with the agents SDK: agents_sdk.py MODE BASE_URL."""

import asyncio
import sys

from agents import (
    Agent,
    OpenAIConversationsSession,
    OpenAIProvider,
    RunConfig,
    Runner,
    SQLiteSession,
    function_tool,
)
from asking import answer_all
from openai import AsyncOpenAI

mode, base_url = sys.argv[1:]
transport, kept = mode.split("-")


@function_tool
def weather(city: str) -> str:
    """Returns the weather of a city."""
    return f"clear in {city}"


agent = Agent(name="Forecaster", instructions="Be brief.", model="gpt-5.5", tools=[weather])


async def main():
    client = AsyncOpenAI(base_url=base_url)
    provider = OpenAIProvider(openai_client=client, use_responses_websocket=transport == "websocket")
    session = {
        "sqlite": lambda: SQLiteSession("conversation", "conversations.db"),
        "conversations": lambda: OpenAIConversationsSession(openai_client=client),
        "anchored": lambda: None,
    }[kept]()
    previous = None

    async def ask(text):
        nonlocal previous
        how = {"session": session} if session else {"previous_response_id": previous, "auto_previous_response_id": True}
        config = RunConfig(model_provider=provider, tracing_disabled=True)
        if mode in ("http-conversations", "websocket-sqlite", "websocket-anchored"):
            result = Runner.run_streamed(agent, text, run_config=config, **how)
            async for _ in result.stream_events():
                pass
        else:
            result = await Runner.run(agent, text, run_config=config, **how)
        previous = result.last_response_id
        return result.final_output

    await answer_all(ask)
    await provider.aclose()


asyncio.run(main())
