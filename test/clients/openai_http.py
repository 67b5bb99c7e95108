"""Tool conversations with the openai package over HTTP: openai_http.py MODE BASE_URL.

In the modes sync and async-stream each request names the response that it continues. In the others it has the whole conversation,
which is not stored.
"""

import json
import sys

import openai
from asking import run

mode, base_url = sys.argv[1:]
is_anchored = mode in ("sync", "async-stream")
client = (openai.OpenAI if mode.startswith("sync") else openai.AsyncOpenAI)(base_url=base_url)
weather = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
settings = {"model": "gpt-5.5", "instructions": "Be brief.", "tools": [weather], "reasoning": {"effort": "low"}}
history = []
previous = None


async def request(body):
    """Returns the id of the response to one request, and its items."""
    if mode == "async-stream":
        async with client.responses.stream(**body) as stream:
            response = await stream.get_final_response()
        return response.id, response.output
    if mode == "sync-stream":
        # What programs send back that read the stream: each item as it was streamed.
        items = []
        for event in client.responses.create(stream=True, **body):
            if event.type == "response.output_item.done":
                items.append(event.item)
            if event.type == "response.completed":
                return event.response.id, items
            if event.type == "response.failed":
                raise RuntimeError(event.response.error)
        raise RuntimeError("the stream ended early")
    response = client.responses.create(**body)
    if mode == "async":
        response = await response
    return response.id, response.output


async def ask(text):
    global history, previous
    added = [{"role": "user", "content": text}]
    whole, anchor = history, previous
    while added:
        whole = whole + added
        if is_anchored:
            how = {"input": added, "previous_response_id": anchor}
        else:
            how = {"input": whole, "store": False, "include": ["reasoning.encrypted_content"]}
        anchor, output = await request({**settings, **how})
        whole = whole + [item.to_dict() for item in output]
        added = [
            {
                "type": "function_call_output",
                "call_id": item.call_id,
                "output": f"clear in {json.loads(item.arguments)['city']}",
            }
            for item in output
            if item.type == "function_call"
        ]
    history, previous = whole, anchor
    return "".join(part.text for item in output if item.type == "message" for part in item.content)


run(ask)
