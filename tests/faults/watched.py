"""`alpha_sweep.py` that writes down on which nodes the targets of its teacher lie, a line each time that this changes."""

import os
import runpy
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.experimental import get_local_object_locations

from rekd.running.object_store import Shelf

PLACES = "REKD_TEST_PLACES"
"""Names the file. A line is the driver's node, then those of the targets."""

make = Shelf.__init__


def make_watched(shelf: Shelf, *arguments: Any, **options: Any) -> None:
    make(shelf, *arguments, **options)
    threading.Thread(target=watch, args=(shelf,), daemon=True).start()


def watch(shelf: Shelf) -> None:
    here, before = ray.get_runtime_context().get_node_id(), None
    while True:
        references = [reference for key, reference in list(shelf._references.items()) if key[0] == "targets"]
        found = get_local_object_locations(references).values() if references else ()
        nodes = sorted({node for place in found for node in place["node_ids"]})
        if nodes != before:
            with Path(os.environ[PLACES]).open("a") as file:
                file.write(" ".join([here, *nodes]) + "\n")
            before = nodes
        time.sleep(0.1)


if __name__ == "__main__":
    Shelf.__init__ = make_watched
    runpy.run_path("sweeps/alpha_sweep.py", run_name="__main__")
