"""The page at `/` and that of the routes at `/docs`, with policies by which no other script runs in them."""

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import FastAPI
from fastapi import Request as HTTPRequest
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

PAGE = files("softprompt.serving.http") / "page.html"
ASSETS = files("fastapi_offline") / "static"
"""Swagger UI (https://github.com/swagger-api/swagger-ui) as fastapi-offline brings it."""
COMMON = {"Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}


def policy(html: str) -> str:
    """Write the Content-Security-Policy (https://www.w3.org/TR/CSP3/): the page's own script and style, by hashes."""

    def hashes(tag: str) -> str:
        text = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in text)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def add_docs(app: FastAPI) -> None:
    """Serve the description of the routes with assets of this machine: it needs nothing from elsewhere."""
    app.mount("/docs/assets", StaticFiles(directory=str(ASSETS)), name="assets")

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    async def docs(request: HTTPRequest) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        page = get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=f"{app.title} {app.version}",
            swagger_js_url=f"{root}/docs/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/docs/assets/swagger-ui.css",
            swagger_favicon_url=f"{root}/docs/assets/favicon.png",
        )
        html = bytes(page.body).decode()
        return HTMLResponse(html, headers={"Content-Security-Policy": docs_policy(html), **COMMON})


def docs_policy(html: str) -> str:
    """Write the policy of `/docs`: the server's own scripts and the page's; Swagger UI sets styles as it goes."""
    return (
        policy(html)
        .replace("script-src ", "script-src 'self' ")
        .replace("style-src ;", "style-src 'self' 'unsafe-inline';")
        .replace("img-src data:", "img-src 'self' data:")
    )


def add_page(app: FastAPI) -> None:
    """Serve the page, to anybody: it holds no data, and asks for a key where the server wants one."""
    html = PAGE.read_text(encoding="utf-8")
    headers = {"Content-Security-Policy": policy(html), **COMMON}

    @app.get("/", include_in_schema=False, response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)
