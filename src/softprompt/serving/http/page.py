"""The page at `/`: one file that needs no other, and a policy by which no other script runs in it."""

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import FastAPI
from starlette.responses import HTMLResponse

PAGE = files("softprompt.serving.http") / "page.html"


def policy(html: str) -> str:
    """Write the Content-Security-Policy (https://www.w3.org/TR/CSP3/): the page's own script and style, by hashes."""

    def hashes(tag: str) -> str:
        text = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in text)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def add_page(app: FastAPI) -> None:
    """Serve the page, to anybody: it holds no data, and asks for a key where the server wants one."""
    html = PAGE.read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": policy(html),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }

    @app.get("/", include_in_schema=False, response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)
