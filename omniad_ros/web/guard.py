"""Who may ask, and what a page may do.

A browser that stands in the same network can be made to ask by any page that it shows. So a name other than ours in ``Host`` is
refused (DNS rebinding), what changes something needs a header that no foreign page can send (CSRF), and our own pages may load and
run nothing but what comes from here (CSP). Beyond this computer a token is needed as well.
"""

from __future__ import annotations

import hmac

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE, HEADER = "omniad_token", "X-Omniad"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
SAFE = ("GET", "HEAD")
LOCAL = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """ASGI middleware. token: without which nobody is let in, empty for nobody needs one; hosts: names under which it is asked, empty for
    any."""

    def __init__(self, app: ASGIApp, token: str = "", hosts: tuple[str, ...] = LOCAL):
        self.app, self.token, self.hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(Request(scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return

        async def send_guarded(message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        await self.app(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        host = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self.hosts and host.lower() not in self.hosts:
            return PlainTextResponse("this server does not go by that name", 400)
        if self.token:
            given = request.query_params.get("token", "")
            if given and request.method in SAFE and self._is_token(given):
                rest = request.url.remove_query_params("token")
                answer = RedirectResponse(rest.path + (f"?{rest.query}" if rest.query else ""), 303)
                answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict", max_age=30 * 24 * 3600)
                return answer
            bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not (self._is_token(request.cookies.get(COOKIE, "")) or self._is_token(bearer)):
                return PlainTextResponse("a token is needed: open the address that 'omniad serve' printed", 401)
        if request.method not in SAFE and HEADER.lower() not in request.headers:
            return PlainTextResponse(f"what changes something needs the header {HEADER}", 403)
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())
