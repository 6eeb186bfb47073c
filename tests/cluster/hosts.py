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
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
VENV = Path(sys.prefix)
NETWORK = "10.213.77"
FILE = "clusters/on_premises.yaml"
SHARED = "/srv/rekd"
"""Where the three hosts see the one folder that they share."""

AWAKE = {"RAY_worker_niceness": "0"}
"""Ray gives way to all else on a machine; of this one's two cores that may be most."""

TOOLS = ("ip", "unshare", "nsenter", "setpriv", "rsync", "ssh", "ssh-keygen", "sshd", "mount")

# Everything is mounted inside the host's own mount namespace and goes with it. $keep is what it sees of this machine's
# folders under /tmp, /root and the project: the environment. The project itself is on the laptop only, as a copy. $own are
# folders, and what lies in etc are files, that it has for itself.
INIT = """
set -eu
mount --make-rprivate /
i=0; for path in $keep; do i=$((i + 1)); mkdir -p "$base/keep$i"; mount --bind "$path" "$base/keep$i"; done
for folder in $own; do mkdir -p "$base/$folder"; mount --bind "$base/$folder" "/$folder"; done
chmod 1777 /tmp; mkdir -p /run/sshd
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount -t tmpfs tmpfs /srv
mkdir -p "$project" # gone where it lies below one of those folders
if [ -n "$tree" ]; then mount --bind "$tree" "$project"; else mount -t tmpfs tmpfs "$project"; fi
i=0; for path in $keep; do i=$((i + 1)); mkdir -p "$path"; mount --bind "$base/keep$i" "$path"; done
if [ -n "$share" ]; then mkdir /srv/rekd; mount --bind "$share" /srv/rekd; fi
for file in "$base"/etc/*; do [ ! -e "$file" ] || mount --bind "$file" "/etc/${file##*/}"; done
hostname "$name"
eval "$more"
touch "$base/ready"
if [ -e "$base/sshd_config" ]; then exec "$sshd" -D -e -f "$base/sshd_config"; else sleep infinity & wait; fi
"""

SSHD = """
Port 22
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
    addresses: tuple[str, ...]
    """With the length of their networks; the first is the one that it uses itself."""
    base: Path
    bridge: str
    share: Path | None = None
    """The folder that it sees as `SHARED`."""
    own: tuple[str, ...] = ("tmp", "root", "run")
    more: str = ""
    """What else its shell does before it is ready."""
    setting: dict[str, str] = field(default_factory=dict)
    """Variables of all commands on it."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return self.addresses[0].split("/")[0]

    @property
    def has_project(self) -> bool:
        """Whether it is the laptop, where the working tree is."""
        return (self.base / "project").exists()

    @property
    def namespace(self) -> str:
        return f"{self.bridge}-{self.name}"

    @property
    def link(self) -> str:
        """Its end of the cable that this machine sees."""
        return f"{self.bridge}{self.name}"[:15]

    def plug_in(self) -> None:
        """Gives it its network. Whatever is not on the bridge is nowhere; Ray looks up its address by the default route."""
        ip("netns", "add", self.namespace)
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        ip("link", "set", self.link, "master", self.bridge, "up")
        for address in self.addresses:
            ip("-n", self.namespace, "addr", "add", address, "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", self.namespace, "link", "set", device, "up")
        ip("-n", self.namespace, "route", "add", "default", "dev", "eth0", "src", self.address)

    def start(self) -> None:
        """Switches it on, with what its disk held before. The thread has to live as long as the host."""
        self.plug_in()
        environment = {
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "base": str(self.base),
            "keep": " ".join(map(str, _kept())),
            "name": self.name,
            "project": str(ROOT),
            "share": str(self.share or ""),
            "tree": str(self.base / "project") if self.has_project else "",
            "sshd": _where("sshd") or "",
            "own": " ".join(self.own),
            "more": self.more,
        }
        (self.base / "etc").mkdir(exist_ok=True)
        ready = self.base / "ready"
        ready.unlink(missing_ok=True)
        # pdeathsig: a host does not outlive the test, however that ends
        command = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.namespace]
        command += ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--mount-proc"]
        with (self.base / "console").open("ab") as console:
            self.process = subprocess.Popen(
                [*command, "bash", "-c", INIT],
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
        ip("link", "set", self.link, "down")

    def mend_link(self) -> None:
        ip("link", "set", self.link, "up")

    def command(self, *words: str, **environment: str) -> list[str]:
        """What runs a command on it, in its home or, on the laptop, in the working tree."""
        folder = str(ROOT) if self.has_project else "/root"
        setting = [f"{name}={value}" for name, value in (self.setting | environment).items()]
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
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "set", bridge, "up")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(base / "key")], check=True)
        shared = base / "shared"
        shared.mkdir()
        names = ("laptop", "head", "worker1", "worker2")
        for number, name in enumerate(names, 1):
            folder = base / name
            (folder / "root").mkdir(parents=True)
            host = Host(name, (f"{NETWORK}.{number}/24",), folder, bridge, shared if number > 1 else None)
            made.append(host)
            (folder / "etc").mkdir()
            (folder / "etc" / "hosts").write_text(
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
        copy_project(host)
        _fill_in(host.base / "project" / FILE)
        (home / ".ssh").mkdir(mode=0o700)
        shutil.copy(key, home / ".ssh" / "rekd")
        return
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host.base / "host_key")], check=True)
    shutil.copy(key.with_suffix(".pub"), host.base / "authorized_keys")
    (host.base / "sshd_config").write_text(SSHD.format(base=host.base) + set_env(AWAKE))
    # The environment is there already: these hosts cannot reach a package index.
    (home / ".rekd").mkdir()
    (home / ".rekd" / "venv").symlink_to(VENV)
    shutil.copy(ROOT / "constraints.txt", home / ".rekd" / "installed")


def set_env(variables: dict[str, str]) -> str:
    """The line of an SSH server that gives its sessions these variables."""
    return f"SetEnv {' '.join(f'{name}={value}' for name, value in variables.items())}\n"


def _fill_in(file: Path) -> None:
    """What a user writes into the on-premises file."""
    replace_each(
        file,
        {
            "# head_ip: 10.0.0.10": f"head_ip: {NETWORK}.2",
            "# worker_ips: [10.0.0.11, 10.0.0.12]": f"worker_ips: [{NETWORK}.3, {NETWORK}.4]",
            "ssh_user: ubuntu": "ssh_user: root",
        },
    )


def replace_each(file: Path, changes: dict[str, str]) -> None:
    """Writes each new text for its old one, which is there exactly once."""
    text = file.read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old} is not once in {file}"
        text = text.replace(old, new)
    file.write_text(text)


def copy_project(host: Host) -> None:
    """The working tree, as somebody has it on a laptop."""
    (host.base / "project").mkdir()
    copied = ["rsync", "-a", "--exclude=.git", "--exclude=.venv", "--filter=:- .gitignore", f"{ROOT}/"]
    subprocess.run([*copied, str(host.base / "project")], check=True)


def _kept() -> list[Path]:
    """The environment of this process, where hosts would not see it: below their own /tmp and /root, or the project."""
    hidden = ("/root", "/tmp")
    base_python = Path(sys.base_prefix)
    return [VENV, *([base_python] if any(base_python.is_relative_to(folder) for folder in hidden) else [])]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _where(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
