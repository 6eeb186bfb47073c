"""Ray on this machine: nobody else gets in, and nothing is left that would let them."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rekd.cluster.own_folder import OwnFolder, private_folder

CONNECT = """
import os, time
from pathlib import Path
import ray
from ray._private.utils import publish_error_to_driver
from rekd.cluster.connect import connect, disconnect
print(connect(local=True, num_cpus=1).num_cpus, ray.get(ray.remote(lambda: 7).remote()))
print(len([*Path(os.environ["RAY_TMPDIR"]).glob("rekd-*/own*/session_2*")]))
publish_error_to_driver("node_died", "a paragraph on a lost machine", ray._private.worker.global_worker.gcs_client)
time.sleep(1)
disconnect()
"""


def test_a_local_run_leaves_no_token_and_its_files_are_ones_own(tmp_path):
    """Nor does Ray print what it has to say of its machines: the sweep's own line says it."""
    home, folder = tmp_path / "home", Path("/tmp") / f"rekd-test-{os.getpid()}"  # short: sockets lie in it
    home.mkdir()
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**kept, "HOME": str(home), "RAY_TMPDIR": str(folder)}
    try:
        ran = subprocess.run(
            [sys.executable, "-c", CONNECT], env=environment, capture_output=True, text=True, timeout=120
        )
        assert ran.stdout.split() == ["1.0", "7", "1"], ran.stderr
        assert not (home / ".ray" / "auth_token").exists()
        (private,) = folder.iterdir()
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert not list(private.iterdir())  # it goes with the Ray that was started
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


HOLD = """
import os, signal
from rekd.cluster.own_folder import OwnFolder
(OwnFolder().path / "session_latest").write_text("logs")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_when_the_next_one_begins_and_what_is_in_use_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    of_before = private_folder() / "ray"  # an earlier version's, in which a sweep may be running
    of_before.mkdir()
    subprocess.run([sys.executable, "-c", HOLD], check=False)
    (left,) = private_folder().glob("own*")
    assert list(left.iterdir())
    with OwnFolder() as first, OwnFolder() as second:
        assert sorted(private_folder().iterdir()) == sorted([first, second, of_before])
        (first / "file").touch()
    assert list(private_folder().iterdir()) == [of_before]


def test_a_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / f"rekd-{os.getuid()}").symlink_to("/etc")
    with pytest.raises(ValueError, match="Remove it"):
        private_folder()


def test_a_folder_that_is_there_already_is_closed_to_others(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / f"rekd-{os.getuid()}").mkdir(mode=0o755)
    assert stat.S_IMODE(private_folder().stat().st_mode) == 0o700
