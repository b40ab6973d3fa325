"""Gives every request an id, and turns what nobody expected into a 500 that shows only that id."""

import os

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.limits import REQUEST_ID as ACCEPTED
from app.api.problems import unexpected_response
from app.logs import REQUEST_ID


class RequestIds:
    """Outermost middleware. A client's `X-Request-ID` is kept where its characters are harmless in a log. Puts
    `request_id` and, once an answer begins, its `status` into the scope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _given(scope) or new_request_id()
        scope["request_id"] = request_id
        REQUEST_ID.set(request_id)  # each request is a task of its own, with a context of its own
        header = (b"x-request-id", request_id.encode("ascii"))
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                scope["status"] = message["status"]
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            if started:  # half an answer is out: only closing the connection tells the client
                raise
            await unexpected_response(error, request_id)(scope, receive, send_with_id)


def new_request_id() -> str:
    return os.urandom(8).hex()


def _given(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value.decode("ascii") if ACCEPTED.fullmatch(value) else None
    return None
