"""A provider that speaks the Responses API, as somebody writes it with FastAPI: uvicorn app:app.

Its model answers with a digest of the context that it was given (src/testing/simulator/digest.ts). It calls the tool `look` if the
last message has `please look`, and takes seconds if it has `slowly`. Its errors are those of FastAPI: `{"detail": ...}`. With
APP_WEBSOCKET=off it has no WebSocket.
"""

import asyncio
import hashlib
import json
import os
import uuid
from contextlib import suppress
from typing import Any

from fastapi import FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict

app = FastAPI()
responses: dict[str, dict] = {}
contexts: dict[str, list] = {}
counts = {"http": 0, "websocket": 0, "anchored": 0}


class Create(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: str
    input: str | list[dict[str, Any]]
    previous_response_id: str | None = None
    stream: bool = False
    store: bool | None = None


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def identity(item):
    kind = item.get("type", "message")
    if kind == "message":
        content = item.get("content")
        parts = content if isinstance(content, list) else [{"type": "input_text", "text": content or ""}]
        return ["message", item.get("role"), [{"text": part["text"]} for part in parts]]
    if kind == "function_call":
        return [kind, item["call_id"], item["name"], item["arguments"]]
    return [kind, item["call_id"], item["output"]]


def digest(items, body):
    line = ""
    for item in items:
        line = hashlib.sha256((line + canonical(identity(item))).encode()).hexdigest()
    fields = [body.get("instructions"), body.get("tools") or None, body.get("reasoning")]
    return hashlib.sha256((line + canonical(fields)).encode()).hexdigest()[:16]


def context_of(body, known):
    """Returns the items of a request's context."""
    given = body["input"]
    items = [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given
    previous = body.get("previous_response_id")
    if previous is None:
        return items
    if previous not in known:
        raise HTTPException(404, f"Response {previous} not found")
    counts["anchored"] += 1
    return known[previous] + items


def text_of(item):
    content = item.get("content", "")
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


async def events(body, items, known):
    """Yields the events of one response."""
    made = digest(items, body)
    response = {"id": f"resp_{uuid.uuid4().hex}", "object": "response", "model": body["model"], "status": "in_progress"}
    response |= {"output": [], "usage": None, "error": None, "previous_response_id": body.get("previous_response_id")}
    number = 0

    def event(kind, **fields):
        nonlocal number
        number += 1
        return {"type": kind, "sequence_number": number - 1, **fields}

    yield event("response.created", response=dict(response))
    last = items[-1]
    if last.get("type", "message") == "message" and "please look" in text_of(last):
        item = {"type": "function_call", "id": f"fc_{uuid.uuid4().hex}", "call_id": f"call_{uuid.uuid4().hex}"}
        item |= {"name": "look", "arguments": '{"city":"Tromsø"}', "status": "completed"}
        yield event("response.output_item.added", output_index=0, item={**item, "arguments": ""})
        place = {"item_id": item["id"], "output_index": 0}
        yield event("response.function_call_arguments.delta", delta=item["arguments"], **place)
        yield event("response.function_call_arguments.done", arguments=item["arguments"], **place)
    else:
        is_slow = last.get("type", "message") == "message" and "slowly" in text_of(last)
        text = f"Grüße, 世界 🌍. digest={made}" + "." * (700 if is_slow else 0)
        item = {"type": "message", "id": f"msg_{uuid.uuid4().hex}", "role": "assistant", "status": "completed"}
        item["content"] = [{"type": "output_text", "text": text, "annotations": []}]
        place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        yield event("response.output_item.added", output_index=0, item={**item, "content": []})
        part = {"type": "output_text", "text": "", "annotations": []}
        yield event("response.content_part.added", part=part, **place)
        for at in range(0, len(text), 7):
            yield event("response.output_text.delta", delta=text[at : at + 7], **place)
            if is_slow:
                await asyncio.sleep(0.03)
        yield event("response.output_text.done", text=text, **place)
        yield event("response.content_part.done", part=item["content"][0], **place)
    yield event("response.output_item.done", output_index=0, item=item)
    usage = {"input_tokens": len(items), "output_tokens": 1, "total_tokens": len(items) + 1}
    response |= {"output": [item], "status": "completed", "usage": usage}
    known[response["id"]] = items + [item]
    if body.get("store") is not False:
        responses[response["id"]] = response
        contexts[response["id"]] = known[response["id"]]
    yield event("response.completed", response=response)


@app.post("/v1/responses")
async def create(create: Create):
    counts["http"] += 1
    body = create.model_dump(exclude_unset=True)
    if body["model"] == "nothing":
        raise HTTPException(404, "There is no such model", headers={"Retry-After": "7"})
    items = context_of(body, contexts)

    async def lines():
        async for event in events(body, items, {}):
            data = f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
            # Chunks end where they end, also within a character.
            for at in range(0, len(data), 61):
                yield data[at : at + 61]
        yield b"data: [DONE]\n\n"

    if create.stream:
        return StreamingResponse(lines(), media_type="text/event-stream")
    async for event in events(body, items, {}):
        last = event
    return JSONResponse(last["response"])


@app.get("/v1/responses/{response_id}")
async def retrieve(response_id: str):
    if response_id not in responses:
        raise HTTPException(404, "Response not found")
    return responses[response_id]


if os.environ.get("APP_WEBSOCKET") != "off":

    @app.websocket("/v1/responses")
    async def connection(socket: WebSocket):
        await socket.accept()
        known = dict(contexts)
        with suppress(WebSocketDisconnect):
            while True:
                body = await socket.receive_json()
                counts["websocket"] += 1
                body.pop("type", None)
                try:
                    if body["model"] == "nothing":
                        raise HTTPException(404, "There is no such model")
                    items = context_of(body, {**contexts, **known})
                except HTTPException as error:
                    await socket.send_json({"type": "error", "status": error.status_code, "detail": error.detail})
                    continue
                async for event in events(body, items, known):
                    await socket.send_text(json.dumps(event))


@app.get("/counts")
async def count():
    return counts
