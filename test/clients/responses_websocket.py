"""Runs a tool conversation of several turns on the WebSocket of the openai package, and prints one line of JSON a turn.

Usage: responses_websocket.py BASE_URL TURNS, with one line on standard input before each turn after the first.
"""

import json
import sys
import time

import websockets
from openai import OpenAI

base_url, turns = sys.argv[1], int(sys.argv[2])
client = OpenAI(base_url=base_url, api_key="sk-test")
tools = [{"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}]


def ask(connection, items, previous):
    """Sends one request and returns the finished response."""
    extra = {"previous_response_id": previous} if previous else {}
    connection.response.create(model="m", input=items, tools=tools, store=False, **extra)
    for event in connection:
        if event.type == "response.completed":
            return event.response
        if event.type in ("response.failed", "response.incomplete", "error"):
            raise RuntimeError(event.to_json())
    raise RuntimeError("the connection ended without an answer")


def user(text):
    return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}]


connection = client.responses.connect(max_retries=0).enter()
previous = None
items = user("How is the weather? [call:weather {}]")
for turn in range(turns):
    if turn > 0:
        sys.stdin.readline()
    response = None
    deadline = time.monotonic() + 90
    while response is None:
        try:
            response = ask(connection, items, previous)
        except (websockets.ConnectionClosed, RuntimeError, OSError) as error:
            if time.monotonic() > deadline:
                raise
            print(json.dumps({"again": str(error)}), flush=True)
            time.sleep(0.5)
            try:
                connection = client.responses.connect(max_retries=0).enter()
            except Exception as refused:
                print(json.dumps({"refused": str(refused)}), flush=True)
    output = [json.loads(item.to_json()) for item in response.output]
    print(json.dumps({"input": items, "output": output, "tools": tools}), flush=True)
    previous = response.id
    calls = [item for item in output if item["type"] == "function_call"]
    items = [{"type": "function_call_output", "call_id": call["call_id"], "output": "clear"} for call in calls]
    items = items or user(f"Turn {turn + 1}.")
connection.close()
