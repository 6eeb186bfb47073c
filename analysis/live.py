"""The report while a sweep runs: the same page, built anew when trials end, with what runs now and its curves so far."""

import asyncio
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from aiohttp import web
from markupsafe import Markup

from analysis.report import hash_of, rendered, report, source
from analysis.status import status
from rekd.loopback import Route, loopback_app
from rekd.messages import duration
from rekd.store.files import Store
from rekd.store.under_way import curve, records_so_far

CURVES = {"dev_loss": "dev loss", "dev_accuracy": "dev accuracy", "dev_rationale_ratio": "dev ratio"}
"""What is drawn of a running trial."""

MOST_SHOWN = 60
"""Running trials whose curves are drawn; the others are counted."""


class LiveReport:
    """The report of a store, for the browser of this machine."""

    def __init__(self, store: str, options: Mapping[str, Any]) -> None:
        """`options` are those of `report`."""
        self.store, self.options = Store(store), dict(options)
        self._built: tuple[str, str] | None = None  # the version and the page
        self._building = asyncio.Lock()

    def app(self) -> web.Application:
        """The application to serve."""
        return loopback_app((Route("GET", "/", self.page), Route("GET", "/now", self.now)))

    async def page(self, request: web.Request) -> web.Response:
        """The report, built where there is none of what the store holds now."""
        async with self._building:
            version = await asyncio.to_thread(self.version)
            if self._built is None or self._built[0] != version:
                self._built = version, await asyncio.to_thread(self._build, version)
        return web.Response(text=self._built[1], content_type="text/html", charset="utf-8")

    async def now(self, request: web.Request) -> web.Response:
        """What runs, as a part of the page; a header names the version that a page should be of."""
        version, text = await asyncio.to_thread(lambda: (self.version(), self.running()))
        return web.Response(text=text, content_type="text/html", charset="utf-8", headers={"X-Report": version})

    def version(self) -> str:
        """A name for the trials that have ended, and how."""
        folders = (self.store.trials_folder, self.store.failures_folder, self.store.audits_folder)
        states = [sorted(self.store.states_in(folder).items()) for folder in folders]
        return hashlib.sha256(repr(states).encode()).hexdigest()[:16]

    def _build(self, version: str) -> str:
        if self._has_ended():
            return report(self.store, live=version, **self.options)
        script = source("live.js")
        return rendered(
            "waiting.html",
            store=str(self.store),
            style=Markup(source("report.css")),
            live=version,
            live_script=Markup(script),
            live_hash=hash_of(script),
        )

    def _has_ended(self) -> bool:
        return any(self.store.names_in(folder) for folder in (self.store.trials_folder, self.store.failures_folder))

    def running(self) -> str:
        """What runs, in HTML."""
        found = status(self.store)
        trials = [
            _running(trial, records_so_far(self.store, str(trial["digest"])) if number < MOST_SHOWN else [])
            for number, (_, trial) in enumerate(found.running.iterrows())
        ]
        return rendered("now.html", trials=trials, left=duration(found.seconds_left), any=self._has_ended())


def _running(trial: pd.Series, records: list[dict[str, Any]]) -> dict[str, Any]:
    known = [str(value) for value in trial[["task", "model", "objective"]] if not pd.isna(value)]
    seed = "" if pd.isna(trial["seed"]) else f", seed {trial['seed']}"
    return {
        "name": (" ".join(known) or str(trial["digest"])) + seed,
        "epoch": int(trial["epoch"]),
        "epochs": None if pd.isna(trial["epochs"]) else int(trial["epochs"]),
        "left": duration(seconds_left(trial, records)),
        "is_idle": bool(trial["is_idle"]),
        "curves": [
            {"name": said, "points": points(pairs), "last": f"{pairs[-1][1]:.3f}", "num": len(pairs)}
            for name, said in CURVES.items()
            if (pairs := curve(records, name))
        ],
    }


def seconds_left(trial: pd.Series, records: list[dict[str, Any]]) -> float:
    """Gives the time left by the pace of trials of its kind, or where none has ended by its own; NaN where neither is known."""
    known = float(trial["seconds_left"])
    own = [seconds for _, seconds in curve(records, "seconds")]
    if not math.isnan(known) or not own or pd.isna(trial["epochs"]):
        return known
    return sum(own) / len(own) * (int(trial["epochs"]) - int(trial["epoch"]))


def points(pairs: list[tuple[int, float]]) -> str:
    """The points of a line in a box of 100 by 30, from the first epoch to the last, from the lowest value up."""
    epochs, values = [epoch for epoch, _ in pairs], [value for _, value in pairs]
    width, height = max(epochs) - min(epochs) or 1, max(values) - min(values) or 1
    return " ".join(
        f"{100 * (epoch - min(epochs)) / width:.1f},{28 - 26 * (value - min(values)) / height:.1f}"
        for epoch, value in pairs
    )
