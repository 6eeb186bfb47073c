"""Folders of this machine that go with their process: at its end or, where it was killed, when the next one begins."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from types import TracebackType

PREFIX = "own"
"""What their names begin with. Each is held by its process (`flock`), and let go when that is gone, however it went."""

TRIES = 20
"""How often a folder is removed, with a tenth of a second in between: processes of Ray's that are just ending write there."""


class OwnFolder:
    """A folder of this process, below one that its user alone may enter. A context: at its end the folder is gone."""

    def __init__(self) -> None:
        """Removes what processes left here that were killed. Raises ValueError as `private_folder`."""
        private = private_folder()
        for other in private.glob(f"{PREFIX}*"):
            _remove_if_abandoned(other)
        # Nobody looks at another name, so that nobody takes it for abandoned before it is held.
        made = Path(tempfile.mkdtemp(prefix=".", dir=private))
        self._held = os.open(made, os.O_RDONLY)
        with contextlib.suppress(OSError):  # where folders cannot be held, none is taken for abandoned
            fcntl.flock(self._held, fcntl.LOCK_EX)
        self.path = made.rename(private / f"{PREFIX}{made.name.removeprefix('.')}")

    def remove(self) -> None:
        """Removes the folder with all that is in it."""
        for _ in range(TRIES):
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                break
            time.sleep(0.1)
        os.close(self._held)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def private_folder() -> Path:
    """Returns a folder for Ray's, which it opens to everybody. Its path is short: those of sockets may have 107 characters.

    Raises ValueError where it is there and belongs to somebody else.
    """
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / f"rekd-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise ValueError(f"{folder} belongs to somebody else. Remove it, or set RAY_TMPDIR to a folder of your own.")
    folder.chmod(0o700)
    return folder


def _remove_if_abandoned(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it is held, or another process has removed it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
