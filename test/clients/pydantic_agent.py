"""Conversations of an agent with a tool, with Pydantic AI: pydantic_agent.py MODE BASE_URL."""

import asyncio
import sys

from asking import answer_all
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider

mode, base_url = sys.argv[1:]
settings = OpenAIResponsesModelSettings()
if mode == "run-anchored":
    settings["openai_previous_response_id"] = "auto"
if mode == "websocket":
    settings["openai_transport"] = "websocket"
agent = Agent(
    OpenAIResponsesModel("gpt-5.5", provider=OpenAIProvider(base_url=base_url)),
    instructions="Be brief.",
    model_settings=settings,
)


@agent.tool_plain
def weather(city: str) -> str:
    """Returns the weather of a city."""
    return f"clear in {city}"


async def main():
    history = None

    async def ask(text):
        nonlocal history
        if mode == "stream":
            async with agent.run_stream(text, message_history=history) as result:
                answer = await result.get_output()
                history = result.all_messages()
                return answer
        result = await agent.run(text, message_history=history)
        history = result.all_messages()
        return result.output

    async with agent:
        await answer_all(ask)


asyncio.run(main())
