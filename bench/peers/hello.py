"""The hello handler as an ASGI application, for uvicorn and granian.

A response says which process gave it and which version of VERSION_FILE it has read.
"""

import os

BODY = b"Hello from Python!\n"
VERSION = open(os.environ["VERSION_FILE"]).read().strip() if "VERSION_FILE" in os.environ else "0"
HEADERS = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", str(len(BODY)).encode()),
    (b"x-process", str(os.getpid()).encode()),
    (b"x-version", VERSION.encode()),
]


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
