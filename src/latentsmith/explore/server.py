"""The application behind the page: what the browser may ask, and in what words it is refused.

Everything comes from this process. The page loads nothing from elsewhere, and its policy forbids
it to; texts reach the page as data and are drawn as text. Only requests of the page's own host, and
only JSON, are answered, so that no other page in the same browser can ask.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from latentsmith.errors import UserError
from latentsmith.explore.arms import Arm
from latentsmith.explore.bench import Bench
from latentsmith.explore.form import Control, checked
from latentsmith.explore.pictures import sheet
from latentsmith.explore.samples import ACROSS, Images
from latentsmith.explore.tab import tab_of, tabs
from latentsmith.explore.tabs.run import STEMS

PAGE = files("latentsmith.explore") / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
LARGEST = 48 * 2**20
"""Bytes of a request: an uploaded image of 32 MB, as text."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Of a run's report, which is one page with its style in it and without scripts."""


class Explorer:
    """Answers of one page.

    Args:
        bench: the runs' models and samples.
    """

    def __init__(self, bench: Bench):
        self.bench = bench

    # What the page is made of ---------------------------------------------------------------------

    @cached_property
    def tabs(self) -> dict[str, tuple[list[Arm], list[Control]]]:
        """Name → (arms that it fits, its controls), of the tabs that fit any."""
        found = {}
        for name, tab in tabs().items():
            arms = [arm for arm in self.bench.arms if tab.fits(self.bench, arm)]
            if arms:
                found[name] = (arms, tab.controls(self.bench, arms))
        return found

    def page(self) -> dict[str, Any]:
        """All that the page is built from."""
        with self.bench.lock:
            samples = self.bench.samples
            pictures = isinstance(samples, Images)
            return {
                "arms": [_told(arm) for arm in self.bench.arms],
                "tabs": [self._tab(name) for name in self.tabs],
                "samples": {
                    "kind": self.bench.kind,
                    "name": samples.name,
                    "count": len(samples),
                    "captions": samples.captions,
                    "labels": samples.labels,
                    "classes": samples.classes,
                    "across": ACROSS,
                    "side": samples.thumbnails.shape[-1] if pictures else 0,
                    "crop": samples.seen.crop if pictures else "center",
                },
            }

    def _tab(self, name: str) -> dict[str, Any]:
        tab, (arms, controls) = tab_of(name), self.tabs[name]
        return {
            "name": name, "title": tab.title, "help": tab.help, "live": tab.live,
            "button": tab.button, "stacked": tab.stacked, "arms": [arm.key for arm in arms],
            "controls": [control.to_json() for control in controls],
        }  # fmt: skip

    @cached_property
    def thumbnails(self) -> bytes:
        """All samples' thumbnails as one PNG. Raises UserError where there are none."""
        with self.bench.lock:
            if not isinstance(self.bench.samples, Images):
                raise UserError("this page has no images")
            return sheet(self.bench.samples.thumbnails, ACROSS)[0]

    # What it asks ---------------------------------------------------------------------------------

    def show(self, name: str, key: str, values: Any) -> list[dict[str, Any]]:
        """A tab's blocks for one arm. Raises UserError for what cannot be shown."""
        tab, arm = tab_of(name), self.bench.arm(key)
        arms, controls = self.tabs.get(name, ([], []))
        if arm not in arms:
            raise UserError(f"{tab.title} does not suit {arm.run_name} {arm.stage}")
        with self.bench.lock:
            return tab.blocks(self.bench, arm, checked(controls, values))

    def report(self, key: str) -> str:
        """The report of an arm's run. Raises UserError where it has none."""
        folder = self.bench.arm(key).run.path
        for stem in STEMS:
            if (folder / f"{stem}.html").is_file():
                return (folder / f"{stem}.html").read_text(encoding="utf-8")
        raise UserError(f"{folder} has no report")


def _told(arm: Arm) -> dict[str, Any]:
    return {
        "key": arm.key, "run": arm.run_name, "recipe": arm.run.config.kind, "stage": arm.stage,
        "shown": arm.shown,
    }  # fmt: skip


def application(bench: Bench, *, hosts: Sequence[str]) -> Starlette:
    """The application.

    Args:
        hosts: names under which it may be asked for, ``["*"]``: any.
    """
    explorer = Explorer(bench)

    async def static(request: Request) -> Response:
        return _static(request.path_params.get("file", "index.html"))

    async def page(_: Request) -> Response:
        return JSONResponse(await run_in_threadpool(explorer.page))

    async def thumbnails(_: Request) -> Response:
        sheet_of_all = await run_in_threadpool(lambda: explorer.thumbnails)
        return Response(sheet_of_all, media_type="image/png")

    async def show(request: Request) -> Response:
        asked, values = request.path_params, await _json(request)
        blocks = await run_in_threadpool(explorer.show, asked["tab"], asked["arm"], values)
        return JSONResponse({"blocks": blocks})

    async def report(request: Request) -> Response:
        text = await run_in_threadpool(explorer.report, request.path_params["arm"])
        return HTMLResponse(text, headers={"Content-Security-Policy": REPORT_POLICY})

    return Starlette(
        routes=[
            Route("/", static),
            Route("/static/{file}", static),
            Route("/api/page", page),
            Route("/api/show/{tab}/{arm}", show, methods=["POST"]),
            Route("/thumbnails.png", thumbnails),
            Route("/report/{arm}", report),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
        ],
        exception_handlers={UserError: _mistake, Exception: _fault},
    )


def _static(name: str) -> Response:
    """A file of the page; nothing outside its folder has a name without slashes."""
    file = PAGE / name
    suffix = "." + name.rpartition(".")[2]
    if suffix not in TYPES or not file.is_file():
        return Response("not found", status_code=404)
    headers = {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",  # of another version of latentsmith on the same port
    }
    return Response(file.read_text(encoding="utf-8"), media_type=TYPES[suffix], headers=headers)


async def _json(request: Request) -> Any:
    """Raises UserError for what is no JSON, or more than is taken."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/json":
        raise UserError("only the page itself may ask: send JSON")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST:
            raise UserError(f"the image is larger than the {LARGEST >> 20} MB that are taken")
    try:
        return json.loads(body)
    except ValueError as error:
        raise UserError(f"no JSON: {error}") from error


async def _mistake(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=400)


async def _fault(_: Request, error: Exception) -> Response:
    """Starlette itself writes the traceback to the terminal."""
    told = f"{type(error).__name__}: {error}".splitlines()[0]
    return JSONResponse({"error": f"something broke ({told}); the terminal says where"}, 500)
