"""What a server takes that does nothing: routes to hold this one's against, under uvicorn as this one runs it.

    python -m benchmarks.bare --port 9000 [--workers 2]

`POST /asgi/N` is an ASGI application alone: the body is read and forgotten. `POST /search/N` is a route of Starlette
that decodes `{"vector": […], "k": …}` by msgspec, `GET /fetch/N` one that has nothing to decode. All answer N bytes of
JSON: the same each time.
"""

import argparse
from functools import cache

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send


class Body(msgspec.Struct):
    vector: list[float]
    k: int = 10
    recall: float = 0.95
    include: list[str] = msgspec.field(default_factory=list)


_BODY = msgspec.json.Decoder(Body)


@cache
def answer(length: int) -> bytes:
    return b'{"' + b"x" * (length - 6) + b'":0}'


async def search(request: Request) -> Response:
    _BODY.decode(await request.body())
    return Response(answer(request.path_params["length"]), media_type="application/json")


async def fetch(request: Request) -> Response:
    return Response(answer(request.path_params["length"]), media_type="application/json")


routed = Starlette(
    routes=[
        Route("/search/{length:int}", search, methods=["POST"]),
        Route("/fetch/{length:int}", fetch, methods=["GET"]),
    ]
)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http" or not scope["path"].startswith("/asgi/"):
        await routed(scope, receive, send)
        return
    while (await receive()).get("more_body", False):
        pass
    body = answer(int(scope["path"][6:]))
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    uvicorn.run(
        "benchmarks.bare:app",
        port=options.port,
        workers=options.workers,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


if __name__ == "__main__":
    main()
