"""Tool conversations with LangChain's ChatOpenAI: langchain_chat.py MODE BASE_URL."""

import sys

from asking import run
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

mode, base_url = sys.argv[1:]


@tool
def weather(city: str) -> str:
    """Returns the weather of a city."""
    return f"clear in {city}"


model = ChatOpenAI(
    model="gpt-5.5",
    base_url=base_url,
    use_responses_api=True,
    use_previous_response_id=mode.endswith("-anchored"),
).bind_tools([weather])
history = []


async def request(messages):
    if not mode.startswith("stream"):
        return model.invoke(messages)
    whole = None
    async for chunk in model.astream(messages):
        whole = chunk if whole is None else whole + chunk
    return whole


async def ask(text):
    global history
    messages = [*history, HumanMessage(text)]
    while True:
        answer = await request(messages)
        messages.append(answer)
        if not answer.tool_calls:
            break
        messages += [weather.invoke(call) for call in answer.tool_calls]
    history = messages
    return answer.text


run(ask)
