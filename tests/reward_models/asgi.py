"""Ask an ASGI app without a socket: the fuzz asks 10,000 times."""

import asyncio
import json


async def ask(app, body=b"", headers=(), method="POST", path="/score", chunks=None, taken=None):
    """(status, headers, body) of one request. `chunks`: the body in pieces, without a content-length; `taken`: a list
    that gets every piece the app asks for."""
    given = {"content-type": "application/json"} | dict(headers)
    if chunks is None:
        chunks = [body]
        given = {"content-length": str(len(body))} | given
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages[-1]["more_body"] = False
    incoming, sent = iter(messages), []

    async def receive():
        message = next(incoming)
        if taken is not None:
            taken.append(message["body"])
        return message

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in given.items() if v is not None],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    answer = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], answer, b"".join(one.get("body", b"") for one in sent[1:])


def score(app, *completions, headers=(), reward=None, columns=None, **about):
    """(status, answer) of a request for these completions."""
    return asyncio.run(score_later(app, *completions, headers=headers, reward=reward, columns=columns, **about))


async def score_later(app, *completions, headers=(), reward=None, columns=None, **about):
    """As `score`, in a loop that runs already."""
    items = [{"completion": one, "columns": columns or {}} for one in completions]
    body = json.dumps({"schema": 1, "reward": reward, "items": items} | about).encode()
    status, _, answer = await ask(app, body, headers)
    return status, json.loads(answer)


def scores(answer):
    """The scores of an answer's items."""
    return [item["score"] for item in answer["items"]]
