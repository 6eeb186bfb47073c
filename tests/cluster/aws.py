"""A pretended AWS: moto answers what Ray's provider asks of the API, and each machine that it has sold is a host.

`Cloud` serves the API in this process, at an address that only its hosts see. A machine is a host with a private and a public
address, the user ubuntu, and the service of its role's credentials. Orders can be refused, machines announced to be taken back.
Not pretended: GPUs, the machine image, boot and download times, filtering by groups; roles are judged afterwards (policy.py).
"""

import contextlib
import ctypes
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hosts

REGION, ACCOUNT, BUCKET = "us-west-2", "123456789012", "rekd-results"
API = "10.99.0.1"
URL = f"http://{API}:5000"
FILE = "cluster.yaml"
ADMIN = {
    "AWS_ACCESS_KEY_ID": "AKIAUSER",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_ENDPOINT_URL": URL,
}
"""What the user has on the laptop."""
BOOT = 2.0
"""Seconds from the order to SSH; on AWS it is most of a minute."""
PACKAGES = Path(os.environ.get("REKD_WHEELS", "/var/tmp/rekd-wheels"))
"""The package index of these hosts: wheels of what constraints.txt pins, downloaded once, and uv's cache beside them."""
OLD = 3 * 3600.0
"""Seconds after which what a run has left was left by one that was killed."""

OWN = ("tmp", "root", "run", "home", "opt")
"""Folders that a machine has for itself."""
SETTING = {
    **hosts.AWAKE,
    "AWS_ENDPOINT_URL": URL,
    "OMP_NUM_THREADS": "1",
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "/srv/packages",
    "UV_OFFLINE": "1",
    "UV_FIND_LINKS": "/srv/packages",
    "UV_PYTHON_DOWNLOADS": "never",
}
"""Where machines find the API and the packages: variables of every SSH session, where on AWS it is the network."""
MORE = f"""
mkdir /srv/packages; mount --bind {PACKAGES} /srv/packages
chown 1000:1000 /home/ubuntu
ip addr add 169.254.169.254/32 dev lo
python3 "$base/metadata.py" "$base/metadata" < /dev/null > /dev/null 2>&1 &
"""

Refuse = Callable[[dict[str, str]], str | None]
"""From the parameters of an order to AWS's code for why not."""


def missing() -> str:
    """What this machine lacks; empty where nothing."""
    import importlib.util

    if why := hosts.missing():
        return why
    absent = [name for name in ("moto", "boto3", "uv", "flask") if importlib.util.find_spec(name) is None]
    if absent or not shutil.which("sudo"):
        return (
            f"needs {', '.join([*absent, *([] if shutil.which('sudo') else ['sudo'])])}: `make cluster-test` installs"
        )
    return ""


class Machine(hosts.Host):
    """An instance that is on."""

    instance: Any

    @property
    def id(self) -> str:
        return self.instance.id

    @property
    def kind(self) -> str:
        return self.instance.instance_type

    @property
    def is_spot(self) -> bool:
        return self.instance.lifecycle == "spot"


class Cloud:
    """The region, its API, and a laptop from which to use it. The machines go with it."""

    def __init__(self, *, is_warm: bool = True) -> None:
        """`is_warm`: machines find wheels unpacked that another one has unpacked before, which no machine of AWS does."""
        self.is_warm = is_warm
        self.base = Path(tempfile.mkdtemp(prefix="rekd-aws-", dir=PACKAGES.parent))
        self.bridge = f"ra{secrets.token_hex(2)}"
        self.calls: list[dict[str, Any]] = []
        """What was asked of the API: who, action, params, status and, where refused, code."""
        self.refuse: Refuse = lambda order: None
        """Asked of each order of the head's."""
        self.spoil = False
        """Whether machines come on which nobody may become root, so that they cannot be set up."""
        self.machines: dict[str, Machine] = {}
        """All that were ever on, by their id."""
        self._roles: dict[str, str] = {"AKIAUSER": "user"}  # by access key
        self._notices: dict[str, float] = {}  # when they are taken back, by id
        self._erasings: list[subprocess.Popen[bytes]] = []
        self._closing = threading.Event()

    def __enter__(self) -> "Cloud":
        hosts.ip("link", "add", self.bridge, "type", "bridge")
        hosts.ip("link", "set", self.bridge, "up")
        self._frame = hosts.Host("api", (f"{API}/16",), self.base / "api", self.bridge)
        self._frame.plug_in()
        self._server = self._serve()
        self._keeper = threading.Thread(target=self._keep_hosts, daemon=True)
        self._keeper.start()
        self.laptop = self._laptop()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._keeper.join()
        for host in [*self.running(), self.laptop, self._frame]:
            host.cut_power()
        self._erase(*self.machines)
        for erasing in self._erasings:
            erasing.wait()
        self._server.shutdown()
        self._server.server_close()
        self._listener.close()
        subprocess.run(["ip", "link", "delete", self.bridge], capture_output=True)
        shutil.rmtree(self.base, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------ the account
    def deploy(self) -> None:
        """What docs/cluster.md has a user do once: a key, a bucket, the stack; and its two values in the file."""
        self.laptop.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/rekd")
        public = (self.laptop.base / "root/.ssh/rekd.pub").read_text()
        made = self.laptop.run("python", "tests/cluster/deploy.py", public, BUCKET)
        group = made.stdout.strip()
        hosts.replace_each(
            self.laptop.base / "project" / FILE,
            {
                "s3://CHANGE-ME/rekd": f"s3://{BUCKET}/rekd?endpoint_override={API}:5000&scheme=http",
                "sg-CHANGE-ME": group,
                "idle_timeout_minutes: 10": "idle_timeout_minutes: 1",
            },
        )

    @property
    def ec2(self) -> Any:
        """moto's own view of the region."""
        from moto.ec2 import ec2_backends

        return ec2_backends[ACCOUNT][REGION]

    def running(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if machine.process is not None]

    def workers(self) -> list[Machine]:
        return [machine for machine in self.running() if machine.kind.startswith("g")]

    @property
    def head(self) -> Machine:
        (head,) = [machine for machine in self.running() if machine.kind.startswith("m")]
        return head

    def orders(self, since: float = 0) -> list[dict[str, Any]]:
        return [call for call in self.calls if call["action"] == "RunInstances" and call["at"] >= since]

    def granted(self, since: float = 0) -> list[dict[str, str]]:
        """What was ordered by the head and not refused."""
        orders = [call for call in self.orders(since) if call["who"] == "rekd-head" and "code" not in call]
        return [order["params"] for order in orders]

    def refused_at(self) -> list[float]:
        return [order["at"] for order in self.orders() if "code" in order]

    def seconds_to(self) -> dict[str, float]:
        """From the first worker's order to each state that Ray notes in its tags, and to an epoch of its trial in the store."""
        ordered = next(order["at"] for order in self.orders() if order["who"] == "rekd-head" and "code" not in order)
        reached: dict[str, float] = {}
        for call in self.calls:
            params = call["params"]
            if params.get("Tag.1.Key") == "ray-node-status" and call["who"] == "rekd-head":
                reached.setdefault(params["Tag.1.Value"], call["at"] - ordered)
            elif call["action"] == "PUT" and "/epoch-" in params["path"]:
                reached.setdefault("an epoch", call["at"] - ordered)
        return reached

    def told_seconds(self) -> str:
        return ", ".join(f"{what} {seconds:.0f} s" for what, seconds in self.seconds_to().items())

    def interrupt(self, machine: Machine, *, notice: float | None) -> None:
        """Takes a spot machine back, `notice` seconds after it was announced; at once, without a word, where None."""
        if notice is None:
            self.ec2.terminate_instances([machine.id])
            return
        page = machine.base / "metadata/latest/meta-data/spot/instance-action"
        page.parent.mkdir()
        page.write_text('{"action": "terminate"}')
        self._notices[machine.id] = time.monotonic() + notice

    def left(self) -> list[str]:
        """What would still be paid for."""
        from moto.s3 import s3_backends

        states = {i.id: i.state for r in self.ec2.reservations.values() for i in r.instances}
        on = [f"{name} is {state}" for name, state in states.items() if state not in ("terminated", "shutting-down")]
        disks = [f"the volume {volume.id}" for volume in self.ec2.volumes.values()]
        uploads = s3_backends[ACCOUNT]["aws"].buckets[BUCKET].multiparts
        return [*on, *disks, *(f"the upload {upload}" for upload in uploads)]

    # ------------------------------------------------------------------------------------------------ the API
    def _serve(self) -> Any:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *arguments: object) -> None:
                pass

        application = DomainDispatcherApplication(create_backend_app)
        self._listener = _listen(f"/run/netns/{self._frame.namespace}", (API, 5000))
        given = {"threaded": True, "request_handler": Quiet, "fd": self._listener.fileno()}
        server = make_server(API, 5000, lambda *call: self._answer(application, *call), **given)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def _answer(self, application: Any, environ: dict[str, Any], start: Any) -> Any:
        """Notes the call; refuses it, or lets moto answer."""
        service, who, params = "s3", "nobody", {}
        if "Credential=" in (signed := environ.get("HTTP_AUTHORIZATION", "")):
            key, _, _, service, _ = signed.split("Credential=")[1].split(",")[0].split("/")
            who = self._roles.get(key, key)
        if service in ("ec2", "iam", "sts", "cloudformation"):  # those that ask by a form
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(body)
            params = dict(urllib.parse.parse_qsl(body.decode()))
        action = params.get("Action") or environ.get("HTTP_X_AMZ_TARGET", "").split(".")[-1]
        if service == "s3":
            query = environ.get("QUERY_STRING", "")
            action, params = environ["REQUEST_METHOD"], {"path": environ["PATH_INFO"], "query": query}
        call = {"at": time.monotonic(), "who": who, "service": service, "action": action, "params": params}
        self.calls.append(call)
        if action == "RunInstances" and who == "rekd-head" and (code := self.refuse(params)):
            call |= {"status": "400 Refused", "code": code}
            start(call["status"], [("Content-Type", "text/xml")])
            error = f"<Code>{code}</Code><Message>The test refuses this order.</Message>"
            return [f"<Response><Errors><Error>{error}</Error></Errors><RequestID>1</RequestID></Response>".encode()]

        def begin(status: str, headers: Any, problem: Any = None) -> Any:
            call["status"] = status
            return start(status, headers, problem)

        with warnings.catch_warnings():  # moto's, of resources that it does not make
            warnings.simplefilter("ignore")
            return application(environ, begin)

    # ------------------------------------------------------------------------------------------------ the machines
    def _keep_hosts(self) -> None:
        """Makes a host of each instance that moto knows to run, and ends it with that."""
        while not self._closing.wait(0.3):
            for notice in [name for name, at in self._notices.items() if time.monotonic() > at]:
                del self._notices[notice]
                self.ec2.terminate_instances([notice])
            for instance in [i for r in list(self.ec2.reservations.values()) for i in r.instances]:
                machine = self.machines.get(instance.id)
                if instance.state == "running" and machine is None:
                    self._switch_on(instance)
                elif instance.state != "running" and machine is not None and machine.process is not None:
                    machine.cut_power()
                    self._erase(machine.id)

    def _erase(self, *names: str) -> None:
        """Removes disks, beside all else: each has the tens of thousands of files of an environment."""
        disks = [str(PACKAGES / "disks" / name) for name in names]
        self._erasings.append(subprocess.Popen(["nice", "rm", "-rf", *disks]))

    def _switch_on(self, instance: Any) -> None:
        base = self.base / instance.id
        addresses = (f"{instance.private_ip}/16", f"{instance.public_ip}/32")
        machine = Machine(f"m{len(self.machines) + 1}", addresses, base, self.bridge, own=OWN, more=MORE)
        machine.instance = instance
        self.machines[instance.id] = machine
        for folder in ("etc", "home/ubuntu/.ssh", "opt/dlami"):
            (base / folder).mkdir(parents=True)
        (PACKAGES / "disks" / instance.id).mkdir()
        (base / "opt/dlami/nvme").symlink_to(Path("/srv/packages/disks") / instance.id)
        _write_etc(base / "etc", machine, may_all=not self.spoil)
        self._let_in(machine)
        shutil.copy(hosts.ROOT / "tests/cluster/metadata.py", base)
        time.sleep(BOOT)
        self._write_pages(machine)  # now, since moto gives an instance its role a moment after its start
        machine.start()

    def _let_in(self, machine: Machine) -> None:
        """Who has the key of the order, as ubuntu."""
        key = self.ec2.key_pairs[machine.instance.key_name].material_public
        home = machine.base / "home/ubuntu"
        (home / ".ssh/authorized_keys").write_text(key if isinstance(key, str) else key.decode())
        (home / ".bashrc").write_text("# as the image has it\n")
        subprocess.run(["chown", "-R", "1000:1000", home], check=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", machine.base / "host_key"], check=True)
        setting = SETTING | ({"UV_CACHE_DIR": "/srv/packages/uv"} if self.is_warm else {})
        text = hosts.SSHD.format(base=machine.base).replace(f"{machine.base}/authorized_keys", ".ssh/authorized_keys")
        (machine.base / "sshd_config").write_text(text + hosts.set_env(setting))

    def _write_pages(self, machine: Machine) -> None:
        """What its metadata service says: who it is, and its role's keys."""
        role, key = self._role(machine.instance), f"ASIA{machine.id[2:].upper()}"
        self._roles[key] = role
        lasting = {"LastUpdated": "2026-01-01T00:00:00Z", "Expiration": "2036-01-01T00:00:00Z"}
        secret = {"Code": "Success", "Type": "AWS-HMAC", "SecretAccessKey": "secret", "Token": "token"}
        pages = {"instance-id": machine.id, "placement/region": REGION, "placement/availability-zone": f"{REGION}a"}
        if role:
            pages[f"iam/security-credentials/{role}"] = json.dumps(secret | lasting | {"AccessKeyId": key})
        for name, text in pages.items():
            page = machine.base / "metadata/latest/meta-data" / name
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text)

    def _role(self, instance: Any) -> str:
        """Of the profile that it was ordered with; empty where it has none."""
        from moto.iam import iam_backends

        links = self.ec2.iam_instance_profile_associations.values()
        profiles = [link.iam_instance_profile for link in links if link.instance.id == instance.id]
        if not profiles:
            return ""
        name = profiles[0]["Arn"].split("/")[-1] if isinstance(profiles[0], dict) else profiles[0].name
        return iam_backends[ACCOUNT]["aws"].get_instance_profile(name).roles[0].name

    def _laptop(self) -> hosts.Host:
        base = self.base / "laptop"
        (base / "root/.ssh").mkdir(parents=True, mode=0o700)
        laptop = hosts.Host(
            "laptop", ("10.99.0.2/16",), base, self.bridge, setting={**ADMIN, "RAY_USAGE_STATS_ENABLED": "0"}
        )
        hosts.copy_project(laptop)
        laptop.start()
        return laptop


def _write_etc(etc: Path, machine: Machine, *, may_all: bool) -> None:
    """The files of a machine that has a user ubuntu, who may become root."""
    for name, line in (
        ("passwd", "ubuntu:x:1000:1000::/home/ubuntu:/bin/bash"),
        ("group", "ubuntu:x:1000:"),
        ("shadow", "ubuntu:*:19000::::::"),
    ):
        others = [old for old in Path("/etc", name).read_text().splitlines() if old.split(":")[2] != "1000"]
        (etc / name).write_text("\n".join([*others, line, ""]))
    (etc / "sudoers").write_text(f"ubuntu ALL=(ALL) {'NOPASSWD: ' if may_all else ''}ALL\n")
    (etc / "sudoers").chmod(0o440)
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n{machine.address} {machine.name}\n")


def _listen(namespace: str, address: tuple[str, int]) -> socket.socket:
    """A socket that listens in another network. A socket stays in the network in which it was made, and a thread can move."""
    made: list[socket.socket] = []

    def make() -> None:
        with Path(namespace).open() as there:
            assert ctypes.CDLL(None, use_errno=True).setns(there.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
        made.append(socket.create_server(address, backlog=256))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def download_wheels() -> None:
    """Everything that a machine installs, once."""
    mark = PACKAGES / "constraints.txt"
    wanted = (hosts.ROOT / "constraints.txt").read_text()
    if mark.exists() and mark.read_text() == wanted:
        return
    PACKAGES.mkdir(parents=True, exist_ok=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-qq",
        "--dest",
        str(PACKAGES),
        "-c",
        str(hosts.ROOT / "constraints.txt"),
    ]
    subprocess.run([*pip, "setuptools>=77", "uv", f"{hosts.ROOT}[aws]"], check=True)
    mark.write_text(wanted)


@contextlib.contextmanager
def deployed(*, is_warm: bool = True) -> Iterator[Cloud]:
    """A cloud whose account is ready, and a laptop with the file filled in."""
    download_wheels()
    for folder in ("uv", "disks"):
        (PACKAGES / folder).mkdir(exist_ok=True)
        (PACKAGES / folder).chmod(0o777)
    for left in (*PACKAGES.parent.glob("rekd-aws-*"), *(PACKAGES / "disks").iterdir()):
        if time.time() - left.stat().st_mtime > OLD:
            shutil.rmtree(left, ignore_errors=True)
    with Cloud(is_warm=is_warm) as cloud:
        cloud.deploy()
        yield cloud
