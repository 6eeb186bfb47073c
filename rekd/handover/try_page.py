"""A page to try models on: type a text or drop an image, see what each model reads, and give it more or less to read."""

import asyncio
from collections.abc import Mapping
from io import BytesIO

from aiohttp import web
from markupsafe import Markup

from rekd.handover.pages import input_shown, script_hash, source, templates
from rekd.handover.side_by_side import explain_all
from rekd.loopback import Route, loopback_app
from rekd.messages import one_line
from rekd.method.explain import Explainer, Input, Picture

LARGEST = 10 * 2**20
"""Bytes of an upload."""

LONGEST = 100_000
"""Characters of a text."""

MOST_PIXELS = 40_000_000
"""Pixels of an image, as its file says them: a small file may unfold to many."""

PATIENCE = 30.0
"""Seconds that an answer may take."""


class TryPage:
    """The page and what answers it. One input is explained at a time: models share their threads."""

    def __init__(self, explainers: Mapping[str, Explainer]) -> None:
        self.explainers = explainers
        self.kind = next(iter(explainers.values())).model.kind
        self.num_features = min(explainer.num_features for explainer in explainers.values())
        self._busy = asyncio.Lock()
        self._templates = templates()

    def app(self) -> web.Application:
        """The application to serve."""
        routes = (Route("GET", "/", self.page), Route("POST", "/explain", self.explain))
        return loopback_app(routes, largest=LARGEST)

    async def page(self, request: web.Request) -> web.Response:
        """The page itself."""
        script = source("try.js")
        policy = (
            f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{script_hash(script)}'; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        text = self._templates.get_template("try.html").render(
            style=Markup(source("explained.css")),
            script=Markup(script),
            kind=self.kind,
            models=list(self.explainers),
            num_features=self.num_features,
            longest=LONGEST,
        )
        headers = {"Content-Security-Policy": policy}
        return web.Response(text=text, content_type="text/html", charset="utf-8", headers=headers)

    async def explain(self, request: web.Request) -> web.Response:
        """What all models say of one input, as a part of the page; status 422 with a sentence where it is no input."""
        try:
            given = self._given(await request.read())
            budget = self._budget(request.query.get("features", ""))
            async with asyncio.timeout(PATIENCE), self._busy:
                part = await asyncio.to_thread(self._part, given, budget)
        except TimeoutError:
            return web.Response(status=503, text=f"No answer within {PATIENCE:.0f} s. Try again.")
        except ValueError as error:
            return web.Response(status=422, text=one_line(error))
        return web.Response(text=part, content_type="text/html", charset="utf-8")

    def _given(self, content: bytes) -> Input:
        if self.kind == "image":
            _check_pixels(content)
            return Picture("The image", content)
        text = content.decode("utf-8")
        if len(text) > LONGEST:
            raise ValueError(f"A text has {LONGEST:,} characters at most here, this one has {len(text):,}.")
        return text

    def _budget(self, features: str) -> float | None:
        """The share of features that a slider asks for; None where the models decide."""
        if not features:
            return None
        if not features.isdecimal() or not 0 < int(features) <= self.num_features:
            raise ValueError(f"A number of features is one of 1 to {self.num_features}.")
        return int(features) / self.num_features

    def _part(self, given: Input, budget: float | None) -> str:
        (explained,) = explain_all(self.explainers, [given], budget=budget)
        shown = self._templates.get_template("explanation.html").module.shown  # pyright: ignore[reportAttributeAccessIssue]
        return str(shown({**input_shown(explained), "name": ""}))


def _check_pixels(content: bytes) -> None:
    """Raises ValueError on an image of too many pixels, before any is decoded, and on what is none."""
    import PIL.Image

    try:
        with PIL.Image.open(BytesIO(content)) as image:
            width, height = image.size
    except Exception as error:  # of Pillow's readers
        raise ValueError("That is no image that can be read. Give a PNG or JPEG file.") from error
    if width * height > MOST_PIXELS:
        raise ValueError(f"An image has {MOST_PIXELS:,} pixels at most here, this one has {width * height:,}.")
