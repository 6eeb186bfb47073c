"""A laptop and three hosts, made of this machine: each has its own network, processes, home, /tmp and name.

Their bridge has no way out, and this machine has no address on it. Needs root, iproute2, util-linux, sshd and rsync.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
VENV = Path(sys.prefix)
NETWORK = "10.213.77"
FILE = "clusters/on_premises.yaml"
SHARED = "/srv/rekd"
"""Where the three hosts see the one folder that they share."""

TOOLS = ("ip", "unshare", "nsenter", "setpriv", "rsync", "ssh", "ssh-keygen", "sshd", "mount")

# Everything is mounted inside the host's own mount namespace and goes with it. $keep is what it sees of this machine's
# folders under /tmp, /root and the project: the environment. The project itself is on the laptop only, as a copy.
INIT = """
set -eu
mount --make-rprivate /
i=0; for path in $keep; do i=$((i + 1)); mkdir -p "$base/keep$i"; mount --bind "$path" "$base/keep$i"; done
for folder in tmp root run; do mkdir -p "$base/$folder"; mount --bind "$base/$folder" "/$folder"; done
chmod 1777 /tmp; mkdir -p /run/sshd
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount -t tmpfs tmpfs /srv; mkdir /srv/rekd
if [ -n "$tree" ]; then mount --bind "$tree" "$project"; else mount -t tmpfs tmpfs "$project"; fi
i=0; for path in $keep; do i=$((i + 1)); mkdir -p "$path"; mount --bind "$base/keep$i" "$path"; done
if [ -n "$share" ]; then mount --bind "$share" /srv/rekd; fi
mount --bind "$base/hosts" /etc/hosts
hostname "$name"
touch "$base/ready"
if [ -n "$share" ]; then exec "$sshd" -D -e -f "$base/sshd_config"; else sleep infinity & wait; fi
"""

SSHD = """
Port 22
ListenAddress {address}
HostKey {base}/host_key
AuthorizedKeysFile {base}/authorized_keys
PidFile none
UsePAM no
UseDNS no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
MaxStartups 100
"""


def missing() -> str:
    """What this machine lacks for the hosts; empty where nothing."""
    if os.geteuid():
        return "needs root"
    tools = [tool for tool in TOOLS if _where(tool) is None]
    if tools:
        return f"needs {', '.join(tools)}"
    probe = [
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--uts",
        "--ipc",
        "ip",
        "link",
        "add",
        "probe",
        "type",
        "bridge",
    ]
    if subprocess.run(probe, capture_output=True).returncode:
        return "needs a kernel that lets it make namespaces and a bridge"
    return ""


@dataclass
class Host:
    name: str
    address: str
    base: Path
    bridge: str
    share: Path | None
    process: subprocess.Popen[bytes] | None = None

    @property
    def namespace(self) -> str:
        return f"{self.bridge}-{self.name}"

    @property
    def link(self) -> str:
        """Its end of the cable that this machine sees."""
        return f"{self.bridge}{self.name}"[:15]

    def start(self) -> None:
        """Switches it on, with what its disk held before."""
        _ip("netns", "add", self.namespace)
        _ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        _ip("link", "set", self.link, "master", self.bridge, "up")
        inside = ("-n", self.namespace)
        _ip(*inside, "addr", "add", f"{self.address}/24", "dev", "eth0")
        _ip(*inside, "link", "set", "lo", "up")
        _ip(*inside, "link", "set", "eth0", "up")
        _ip(
            *inside, "route", "add", "default", "via", f"{NETWORK}.254"
        )  # nobody: Ray looks up its address by this route
        keep = [VENV]
        base_python = Path(sys.base_prefix)
        if base_python.is_relative_to("/root") or base_python.is_relative_to("/tmp"):
            keep.append(base_python)
        environment = {
            "PATH": os.environ["PATH"],
            "base": str(self.base),
            "keep": " ".join(map(str, keep)),
            "name": self.name,
            "project": str(ROOT),
            "share": str(self.share or ""),
            "tree": "" if self.share else str(self.base / "project"),
            "sshd": _where("sshd"),
        }
        ready = self.base / "ready"
        ready.unlink(missing_ok=True)
        # pdeathsig: a host does not outlive the test, however that ends
        command = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "ip",
            "netns",
            "exec",
            self.namespace,
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
        ]
        command += ["--uts", "--ipc", "--mount-proc", "bash", "-c", INIT]
        with (self.base / "console").open("ab") as console:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        deadline = time.monotonic() + 20
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not start: {(self.base / 'console').read_text()}")
            time.sleep(0.02)

    def cut_power(self) -> None:
        """Every process of it ends at once; its disk stays."""
        if self.process is not None:
            self.process.kill()  # unshare --kill-child takes the first process of the host with it, and so all
            self.process.wait()
            self.process = None
        subprocess.run(["ip", "netns", "delete", self.namespace], capture_output=True)

    def cut_link(self) -> None:
        _ip("link", "set", self.link, "down")

    def mend_link(self) -> None:
        _ip("link", "set", self.link, "up")

    def command(self, *words: str, **environment: str) -> list[str]:
        """What runs a command on it, in its home or, on the laptop, in the working tree."""
        folder = "/root" if self.share else str(ROOT)
        setting = [f"{name}={value}" for name, value in environment.items()]
        path = f"{VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        clean = ["env", "-i", f"PATH={path}", "HOME=/root", "TERM=dumb", "LANG=C.UTF-8", *setting]
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid"]
        return ["nsenter", "--target", str(self._first()), *spaces, f"--wdns={folder}", *clean, *words]

    def run(
        self, *words: str, check: bool = True, timeout: float = 300, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words, **environment),
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode:
            raise RuntimeError(
                f"{self.name}: {' '.join(words)} ended with {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def processes(self) -> list[str]:
        """Command lines of all that runs on it, without what keeps it on and what asks."""
        lines = self.run("ps", "-eo", "pid=,args=").stdout.splitlines()
        own = ("ps -eo", "sleep infinity")
        return [
            line.split(maxsplit=1)[1] for line in lines if line.split()[0] != "1" and not any(o in line for o in own)
        ]

    def _first(self) -> int:
        """Its process 1, as this machine numbers it."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if not children:
            raise RuntimeError(f"{self.name} is off: {(self.base / 'console').read_text()}")
        return int(children[0])


@dataclass
class Network:
    laptop: Host
    head: Host
    workers: list[Host]
    shared: Path
    """The folder that the three hosts share."""

    @property
    def hosts(self) -> list[Host]:
        return [self.head, *self.workers]


@contextlib.contextmanager
def three_hosts() -> Iterator[Network]:
    """A laptop, a head and two workers on one bridge, with the on-premises file filled in for them on the laptop."""
    bridge = f"rk{secrets.token_hex(2)}"
    base = Path(tempfile.mkdtemp(prefix="rekd-hosts-", dir="/var/tmp"))
    made: list[Host] = []
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(base / "key")], check=True)
        shared = base / "shared"
        shared.mkdir()
        names = ("laptop", "head", "worker1", "worker2")
        for number, name in enumerate(names, 1):
            folder = base / name
            (folder / "root").mkdir(parents=True)
            host = Host(name, f"{NETWORK}.{number}", folder, bridge, shared if number > 1 else None)
            made.append(host)
            (folder / "hosts").write_text(
                "127.0.0.1 localhost\n" + "".join(f"{NETWORK}.{i} {other}\n" for i, other in enumerate(names, 1))
            )
            _prepare(host, base / "key")
            host.start()
        yield Network(laptop=made[0], head=made[1], workers=made[2:], shared=shared)
    finally:
        for host in made:
            host.cut_power()
        subprocess.run(["ip", "link", "delete", bridge], capture_output=True)
        shutil.rmtree(base)


def _prepare(host: Host, key: Path) -> None:
    """What somebody has to have done on a machine before a cluster file can use it."""
    home = host.base / "root"
    if host.share is None:
        copied = ["rsync", "-a", "--exclude=.git", "--exclude=.venv", "--filter=:- .gitignore", f"{ROOT}/"]
        subprocess.run([*copied, str(host.base / "project")], check=True)
        _fill_in(host.base / "project" / FILE)
        (home / ".ssh").mkdir(mode=0o700)
        shutil.copy(key, home / ".ssh" / "rekd")
        return
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host.base / "host_key")], check=True)
    shutil.copy(key.with_suffix(".pub"), host.base / "authorized_keys")
    (host.base / "sshd_config").write_text(SSHD.format(address=host.address, base=host.base))
    # The environment is there already: these hosts cannot reach a package index.
    (home / ".rekd").mkdir()
    (home / ".rekd" / "venv").symlink_to(VENV)
    shutil.copy(ROOT / "constraints.txt", home / ".rekd" / "installed")


def _fill_in(file: Path) -> None:
    """What a user writes into the on-premises file."""
    text = file.read_text()
    for old, new in (
        ("# head_ip: 10.0.0.10", f"head_ip: {NETWORK}.2"),
        ("# worker_ips: [10.0.0.11, 10.0.0.12]", f"worker_ips: [{NETWORK}.3, {NETWORK}.4]"),
        ("ssh_user: ubuntu", "ssh_user: root"),
    ):
        assert text.count(old) == 1, f"{old} is no longer in {file}"
        text = text.replace(old, new)
    file.write_text(text)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _where(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
