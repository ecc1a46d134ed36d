"""The application: JSON for programs (`api`), pages for people (`pages`), behind a guard."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from omniad_ros import __version__
from omniad_ros.core.feedback import OmniadError
from omniad_ros.living.store import RefusedError, UnknownError
from omniad_ros.web import api, pages
from omniad_ros.web.guard import LOCAL, Guard
from omniad_ros.web.places import Places

STATIC = Path(__file__).parent / "static"


def create_app(places: Places, token: str = "", hosts: tuple[str, ...] = LOCAL) -> FastAPI:
    """The ASGI application. token, hosts: see `Guard`."""
    app = FastAPI(
        title="omniad", version=__version__, openapi_url="/api/openapi.json", docs_url=None, redoc_url=None,
        description=api.__doc__,
    )  # fmt: skip
    app.add_middleware(Guard, token=token, hosts=hosts)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.include_router(api.router(places))
    page = pages.Pages(places, app)
    app.include_router(page.router)

    def told(request: Request, status: int, sentence: str) -> Response:
        if request.url.path.startswith("/api/"):
            return JSONResponse({"detail": sentence}, status)
        return HTMLResponse(page.error(status, sentence), status)

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        return told(request, error.status_code, str(error.detail))

    @app.exception_handler(OmniadError)
    def failed(request: Request, error: OmniadError) -> Response:
        status = {UnknownError: 404, RefusedError: 409}.get(type(error), 503)
        return told(request, status, str(error))

    return app
