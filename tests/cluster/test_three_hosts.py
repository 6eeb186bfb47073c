"""`ray up`, a sweep typed on a laptop, faults, intruders and `down`, on three hosts made of this machine."""

import json
import re
import subprocess
import time

import hosts
import pytest

from analysis import load_epochs, load_trials
from rekd.cluster.ray_cluster import TOKEN_FILE

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(reason := hosts.missing()), reason=f"three hosts on one machine: {reason}"),
]

SWEEP = ("python", "sweeps/alpha_sweep.py", "--task", "digits", "--seeds", "2026,2027", "--teacher-seed", "2026")
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": TOKEN_FILE.replace("~", "/root")}


@pytest.fixture(scope="module")
def network():
    """The hosts with a cluster on them that `ray up` has started."""
    with hosts.three_hosts() as network:
        started = time.monotonic()
        network.laptop.run("ray", "up", "-y", hosts.FILE, RAY_USAGE_STATS_ENABLED="0")
        up = time.monotonic() - started
        wait_for(lambda: num_nodes(network) == 3, 120)
        print(f"\nray up: {up:.0f} s, three hosts after {time.monotonic() - started:.0f} s")
        yield network


def wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.5)


def num_nodes(network) -> int:
    status = network.head.run("ray", "status", check=False, **TOKEN).stdout
    active = re.search(r"Active:\n(.*?)Pending:", status, re.DOTALL)
    return sum(int(number) for number in re.findall(r"^ (\d+) ", active[1], re.MULTILINE)) if active else 0


def type_sweep(network, *arguments: str) -> subprocess.Popen[str]:
    """Types a sweep's command on the laptop and goes on."""
    return subprocess.Popen(
        network.laptop.command(*SWEEP, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def training_worker(network, seconds: float = 240):
    """A worker on which a trial runs, as soon as there is one."""
    found = []
    wait_for(
        lambda: (
            found.extend(w for w in network.workers if any("ray::ImplicitFunc.train" in p for p in w.processes()))
            or found
        ),
        seconds,
    )
    return found[0]


def num_epochs_begun(store) -> int:
    return len(list((store / "running").glob("*/*"))) if store.exists() else 0


def check_complete(store, *, epochs: int) -> None:
    """Six trials, each once and with each of its epochs once; nothing half-done is left."""
    trials, rows = load_trials(store), load_epochs(store)
    assert (trials["status"] == "ok").all(), trials["error"].tolist()
    assert len(trials) == trials["digest"].nunique() == 6
    assert sorted(map(tuple, rows[["digest", "epoch"]].to_numpy())) == sorted(
        (digest, epoch) for digest in trials["digest"] for epoch in range(1, epochs + 1)
    )
    assert not list((store / "running").iterdir())


def test_the_sweep_runs_there_and_its_table_comes_back(network):
    done = network.laptop.run(*SWEEP, "--alphas", "0.3", "--epochs", "2", "--store", f"{hosts.SHARED}/plain")
    assert done.stdout.startswith(f"Running on the cluster of {hosts.FILE}, head {network.head.address}.")
    assert "Running on the cluster at" in done.stdout
    assert "6 CPUs" in done.stdout
    assert "alpha" in done.stdout
    assert done.stderr == ""
    check_complete(network.shared / "plain", epochs=2)
    versions = load_trials(network.shared / "plain")["versions"]
    assert versions.str.contains("rekd 0").all()


def test_another_user_of_a_host_gets_at_nothing_of_rays(network):
    """Of the code that was handed over, above all, which Ray lets everybody write."""
    code = network.head.run("find", "/tmp", "-name", "alpha_sweep.py").stdout.split()
    assert code
    assert all(path.startswith("/tmp/rekd-0/ray/") for path in code)
    for host in network.hosts:
        assert host.run("stat", "-c", "%a %U", "/tmp/rekd-0").stdout == "700 root\n"
        stranger = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        assert host.run(*stranger, "ls", "/tmp/rekd-0", check=False).returncode != 0
        ours = ("(", "-path", "/tmp/rekd-0", "-o", "-path", str(hosts.ROOT), ")", "-prune")
        open_ones = ("-mindepth", "1", *ours, "-o", "-perm", "-o+w", "-print")
        assert host.run("find", "/tmp", *open_ones).stdout == ""


def test_the_exit_status_is_the_sweeps_own(network):
    """Ray calls a job that ends with 1 or 2 failed, and its own client knows no numbers."""
    done = network.laptop.run(*SWEEP, "--epochs", "2", "--store", f"{hosts.SHARED}/plain", "--dry-run", check=False)
    assert done.returncode == 0
    done = network.laptop.run(*SWEEP, "--gpus-per-trial", "3", "--store", f"{hosts.SHARED}/none", check=False)
    assert done.returncode == 2
    assert "--gpus-per-trial asks for 3 GPUs" in done.stdout + done.stderr
    assert not (network.shared / "none").exists()
    done = network.laptop.run(*SWEEP, "--store", "here", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "which the cluster" in done.stderr


def test_a_laptop_that_is_closed_meets_its_sweep_again(network):
    store = network.shared / "closed"
    arguments = ("--alphas", "0.3", "--epochs", "6", "--store", f"{hosts.SHARED}/closed")
    first = type_sweep(network, *arguments)
    wait_for(lambda: num_epochs_begun(store) > 0, 120)
    network.laptop.run("pkill", "-KILL", "-f", "sweeps/alpha_sweep.py")  # sees the laptop's processes only
    first.communicate()
    wait_for(lambda: not any("ssh" in line for line in network.laptop.processes()), 10)
    done = network.laptop.run(*SWEEP, *arguments)
    assert "It runs there already" in done.stdout
    check_complete(store, epochs=6)
    again = network.laptop.run(*SWEEP, *arguments)
    assert "nothing is trained" in again.stdout
    assert "runs there already" not in again.stdout


def test_without_the_token_or_from_outside_nobody_gets_in(network):
    token = network.head.run("cat", TOKEN["RAY_AUTH_TOKEN_PATH"]).stdout.strip()
    assert len(token) == 64
    for host in network.hosts:
        assert host.run("stat", "-c", "%a %U", TOKEN["RAY_AUTH_TOKEN_PATH"]).stdout == "600 root\n"

    body = json.dumps({"entrypoint": "touch /root/intruder"})
    post = ("curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", "-d", body)
    jobs = "http://127.0.0.1:8265/api/jobs/"
    assert network.head.run(*post, jobs).stdout == "401"
    assert network.head.run(*post, "-H", "Authorization: Bearer 0123", jobs).stdout == "403"
    assert network.head.run("curl", "-s", "-H", f"Authorization: Bearer {token}", jobs).stdout.startswith("[")
    # From outside: no dashboard, no client server; what has to be open between hosts asks for the token.
    for port in (8265, 10001):
        done = network.laptop.run(*post, f"http://{network.head.address}:{port}/api/jobs/", check=False)
        assert done.returncode == 7, f"port {port} answers"
    for host in network.hosts:
        agent = f"http://{host.address}:52365/api/job_agent/jobs/"
        assert network.laptop.run(*post, agent, check=False).stdout in ("401", "000"), (
            f"the agent of {host.name} answers"
        )
    connect = f"import ray; ray.init('{network.head.address}:6379', log_to_driver=False); print('IN')"
    for setting in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        done = network.laptop.run("timeout", "60", "python", "-c", connect, check=False, **setting)
        assert done.returncode != 0
        assert "IN" not in done.stdout
    for host in network.hosts:
        assert host.run("ls", "/root/intruder", check=False).returncode != 0
    # Nor is it in a log, a command line or the environment of a process.
    for host in [*network.hosts, network.laptop]:
        for places in (("/tmp",), ("/root", "--exclude=token", "--exclude-dir=.pyenv"), ("/proc",)):
            pattern = "/proc/[0-9]*/environ /proc/[0-9]*/cmdline" if places == ("/proc",) else " ".join(places)
            found = host.run("sh", "-c", f'grep -rlsF -e "$token" {pattern}', check=False, token=token).stdout
            own = [line for line in found.splitlines() if "/proc/" not in line or not is_own(host, line)]
            assert own == [], f"{host.name}: {own}"


def is_own(host, path: str) -> bool:
    """Whether a process in /proc was the search itself, which has ended since."""
    return host.run("test", "-e", path, check=False).returncode != 0


@pytest.mark.parametrize("fault", ["power", "link"])
def test_a_worker_that_is_lost_costs_no_trial(network, fault):
    store = network.shared / fault
    sweep = type_sweep(network, "--alphas", "0.3", "--epochs", "12", "--store", f"{hosts.SHARED}/{fault}")
    victim = training_worker(network)
    wait_for(lambda: num_epochs_begun(store) > 0, 120)
    started = time.monotonic()
    if fault == "power":
        victim.cut_power()
    else:
        victim.cut_link()
    output, _ = sweep.communicate(timeout=600)
    print(f"\n{fault} cut: complete after {time.monotonic() - started:.0f} s")
    assert sweep.returncode == 0, output
    check_complete(store, epochs=12)
    if fault == "power":
        victim.start()
    else:
        victim.mend_link()
    wait_for(lambda: num_nodes(network) == 3, 240)


def test_down_in_mid_sweep_loses_nothing_that_had_ended_and_leaves_nothing(network):
    store = network.shared / "down"
    sweep = type_sweep(network, "--alphas", "0.3", "--epochs", "12", "--store", f"{hosts.SHARED}/down")
    wait_for(lambda: (store / "trials").exists() and any((store / "trials").iterdir()), 240)
    started = time.monotonic()
    done = network.laptop.run("python", "-m", "rekd", "down", hosts.FILE)
    print(f"\ndown: {time.monotonic() - started:.0f} s")
    assert "no key or token of it is left" in done.stdout
    output, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 1
    assert "was taken down" in output
    ended = load_trials(store)
    assert 0 < len(ended) < 6

    wait_for(lambda: network.laptop.processes() == [], 15)  # Ray's SSH connections stay open for ten seconds
    for host in network.hosts:
        assert host.processes() == []
        # Libraries' own, and the environment.
        others = ("/root/.pyenv*", "/root/.rekd/package*", "/root/.cache*", "/root/.config*", f"{hosts.ROOT}/*")
        left = host.run("find", "/root", "/tmp", "-type", "f", *(w for path in others for w in ("-not", "-path", path)))
        assert left.stdout.split() == ["/root/.rekd/installed"]

    network.laptop.run("ray", "up", "-y", hosts.FILE, RAY_USAGE_STATS_ENABLED="0")
    network.laptop.run(*SWEEP, "--alphas", "0.3", "--epochs", "12", "--store", f"{hosts.SHARED}/down")
    check_complete(store, epochs=12)
    before = ended.set_index("digest")["finished_at"]
    after = load_trials(store).set_index("digest")["finished_at"]
    assert (after[before.index] == before).all()
