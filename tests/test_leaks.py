"""What a sweep on this machine leaves behind, and whom it lets in."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

KEYS = {
    "AWS_ACCESS_KEY_ID": "dummyAccessKeyIdThatNobodyMaySee",
    "AWS_SECRET_ACCESS_KEY": "dummySecretThatNobodyMaySee0123456789abc",
    "AWS_SESSION_TOKEN": "dummySessionTokenThatNobodyMaySee",
    "HF_TOKEN": "hf_dummyTokenThatNobodyMaySee",
}

SWEEP = """
import sys
from pathlib import Path

import ray
import psutil  # comes with Ray
from rekd.cluster.connect import connect, disconnect
from rekd.running.tune import run_sweep
from rekd.tasks.task import load_task
from ray import tune

def trial(config, *, store_uri, **shared):
    import os
    from rekd.store.ledger import Ledger, Outcome
    from rekd.store.files import Store
    from rekd.trial import Trial
    assert os.environ["AWS_SECRET_ACCESS_KEY"]  # it reads the store with it
    print("what it printed before it failed", flush=True)
    Ledger(Store(store_uri)).write(Trial(**config), Outcome(status="failed", error="of itself"))

if __name__ == "__main__":
    cluster = connect(local=True, num_cpus=1)
    digits = load_task("digits")
    trials = [digits.trial("re", "vit-student", seed=0)]
    result = run_sweep(trials, sys.argv[1], tasks=[digits], cluster=cluster, trainable=trial)
    assert len(result.failed) == 1
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    for process in family:
        for each in process.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN:
                print("LISTENS", each.laddr.ip, process.name())
    seen = [path.read_bytes() for path in Path(sys.argv[2]).rglob("*") if path.is_file()]
    print("SEEN", len(seen))
    for key in sys.argv[3:]:
        if any(key.encode() in content for content in seen):
            print("LEAKED", key)
    disconnect()
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep with keys in its environment: the folder of its Ray, its store, and what it printed."""
    root = Path(tempfile.mkdtemp(prefix="rk", dir="/tmp"))  # short: sockets are below it
    store = tmp_path_factory.mktemp("leaks") / "store"
    script = root / "sweep.py"
    script.write_text(SWEEP)
    environment = {**os.environ, **KEYS, "RAY_TMPDIR": str(root / "r"), "PYTHONPATH": str(Path(__file__).parents[1])}
    (root / "r").mkdir()
    done = subprocess.run(
        [sys.executable, str(script), str(store), str(root / "r"), *KEYS.values()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    yield root / "r", store, done.stdout + done.stderr
    shutil.rmtree(root)


def test_no_key_is_in_what_a_sweep_writes_while_it_runs(swept):
    _, _, said = swept
    assert "SEEN 0" not in said  # there was something to look into
    assert "LEAKED" not in said


def test_no_key_is_in_what_a_sweep_leaves(swept):
    ray, store, said = swept
    left = [path for folder in (ray, store) for path in folder.rglob("*") if path.is_file()]
    for key in KEYS.values():
        assert key not in said
        assert not [path for path in left if key.encode() in path.read_bytes()]


def test_rays_folder_of_the_session_goes_and_the_log_of_a_failed_trial_is_in_the_store(swept):
    ray, store, _ = swept
    assert not list(ray.rglob("session_*"))
    logs = list((store / "logs" / "failed").rglob("worker-*"))
    assert any("what it printed before it failed" in log.read_text() for log in logs)


def test_ray_on_this_machine_listens_to_this_machine_only(swept):
    _, _, said = swept
    listening = [line.split()[1:] for line in said.splitlines() if line.startswith("LISTENS")]
    assert listening
    assert not [each for each in listening if each[0].removeprefix("::ffff:") not in ("127.0.0.1", "::1")]
