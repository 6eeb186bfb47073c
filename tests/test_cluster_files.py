"""The cluster files: valid to what reads them, as new as constraints.txt, and closed to strangers."""

import copy
import gzip
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from rekd.cluster.ray_cluster import NOT_SET, RAY_FOLDER, TOKEN_FILE, RayCluster, cluster_from

ROOT = Path(__file__).parents[1]
FILES = ("cluster.yaml", "clusters/on_premises.yaml")


def read(file: str) -> dict:
    return yaml.safe_load((ROOT / file).read_text())


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def filled(file: str) -> dict:
    """A cluster file as a user fills it in."""
    config = yaml.safe_load((ROOT / file).read_text().replace(f"sg-{NOT_SET}", "sg-0123").replace(NOT_SET, "mine"))
    if config["provider"]["type"] == "local":
        config["provider"] |= {"head_ip": "10.0.0.10", "worker_ips": ["10.0.0.11", "10.0.0.12"]}
    return config


@pytest.mark.parametrize("file", FILES)
def test_ray_takes_the_file(file):
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(filled(file))
    validate_config(prepared)
    broken = copy.deepcopy(prepared)
    broken["head_start_ray_command"] = []
    with pytest.raises(ValidationError, match="head_start_ray_command"):
        validate_config(broken)


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_nobody_filled_in_has_started_nothing(file):
    assert cluster_from(file) is None


def test_ray_refuses_an_on_premises_file_without_machines():
    done = subprocess.run(
        [Path(sys.executable).with_name("ray"), "up", "-y", "clusters/on_premises.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "head_ip" in done.stdout + done.stderr


def test_versions_are_those_of_the_constraints():
    ray = pinned()["ray"]
    assert f"FROM rayproject/ray:{ray}-py311\n" in (ROOT / "clusters/Dockerfile").read_text()
    job = next(yaml.safe_load_all((ROOT / "clusters/kubernetes.yaml").read_text()))
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray
    for file in FILES:
        assert read(file)["file_mounts"]["~/.rekd/package/constraints.txt"] == "constraints.txt"
    assert "pip install --quiet -c ~/.rekd/package/constraints.txt" in str(read(FILES[1])["setup_commands"])
    assert read("cluster.yaml")["setup_commands"] == ["timeout 900 bash ~/.rekd/aws/setup.sh"]
    assert "-c package/constraints.txt" in (ROOT / "clusters/aws/setup.sh").read_text()
    assert "uv" in pinned()


def test_the_aws_cluster_is_the_papers_size():
    config = read("cluster.yaml")
    types = config["available_node_types"]
    workers = {name: kind for name, kind in types.items() if name != config["head_node_type"]}
    assert all(kind["max_workers"] * kind["resources"]["GPU"] == 120 for kind in workers.values())
    assert all(kind["node_config"]["InstanceType"].startswith("g6e.") for kind in workers.values())
    assert all(kind["min_workers"] == 0 for kind in workers.values())
    cluster = RayCluster(file="cluster.yaml", head="", config=config)
    assert (cluster.most("GPU"), cluster.most("CPU")) == (120, 480)  # not 360: a sweep's trials are on one type
    assert (
        RayCluster(file="clusters/on_premises.yaml", head="", config=read("clusters/on_premises.yaml")).most("GPU") == 0
    )
    # The head is neither spot nor a place for trials.
    spot = {name for name, kind in types.items() if "InstanceMarketOptions" in kind["node_config"]}
    assert spot == set(workers)
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert "--num-cpus=0 --num-gpus=0" in config["head_start_ray_commands"][1]


@pytest.mark.parametrize("file", FILES)
def test_nobody_gets_in_without_the_token(file):
    config = read(file)
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        starts = [line for line in commands if "ray start" in line]
        assert len(starts) == 1
        assert f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={TOKEN_FILE}" in starts[0].split("ray start")[0]
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    # Made on the head, for its user only, and carried on by Ray; on no other disk.
    made = " ".join(config["head_setup_commands"])
    assert "umask 077" in made
    assert "secrets.token_hex(32)" in made
    assert config["cluster_synced_files"] == [TOKEN_FILE]
    assert all("token" not in local for local in config["file_mounts"].values())
    for commands in (config["head_setup_commands"], config["worker_setup_commands"]):
        assert f"chmod 600 {TOKEN_FILE}" in commands
    folder = config["setup_commands"][0] if file == FILES[1] else (ROOT / "clusters/aws/setup.sh").read_text()
    assert re.search(r"chmod 700 (~/\.rekd|\.)\n?", folder)


def the(word: str, commands: list[str]) -> str:
    """The one command with this word."""
    (command,) = (command for command in commands if word in command)
    return command


@pytest.mark.parametrize(
    ("pkill", "is_started"), [("exit 0", True), ("exit 1", True), ("exit 3", False), (None, False)]
)
@pytest.mark.parametrize("file", [*FILES, "clusters/slurm.sbatch"])
def test_rays_client_server_is_ended_or_nothing_starts(file, pkill, is_started, tmp_path):
    """`pkill` has the status 1 where there is none; where it fails or is missing itself, the server may still be there."""
    (tmp_path / "python").write_text(f"#!/bin/sh\ntouch {tmp_path}/sweep\n")
    if pkill is not None:
        (tmp_path / "pkill").write_text(f"#!/bin/sh\n{pkill}\n")
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    for tool in ("id", "touch"):
        (tmp_path / tool).symlink_to(Path("/usr/bin") / tool)
    if file in FILES:
        command = ["/bin/bash", "-c", the("pkill", read(file)["head_start_ray_commands"])]
    else:
        script = re.search(r"bash -c '(pkill .*?)' rekd ", (ROOT / file).read_text())
        assert script
        command = ["/bin/bash", "-c", script[1], "rekd", "sweep.py"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode == 0) == is_started, done.stderr
    if file not in FILES:
        assert (tmp_path / "sweep").exists() == is_started


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_rays_folders_are_below_one_that_its_user_alone_may_enter(kind, tmp_path):
    commands = read("clusters/on_premises.yaml")[f"{kind}_start_ray_commands"]
    start = the("ray start", commands)
    assert f"TMPDIR={RAY_FOLDER} " in start.split("ray start")[0]
    assert "--temp-dir=$TMPDIR/ray" in start.split("ray start")[1]
    make = the("mkdir", commands)
    assert commands.index(make) < commands.index(start)
    folder = tmp_path / f"rekd-{os.getuid()}"

    def made() -> bool:
        done = subprocess.run(["bash", "-c", make.replace("/tmp/", f"{tmp_path}/")], capture_output=True, text=True)
        assert done.returncode == 0 or "belongs to somebody else. Remove it." in done.stdout
        return done.returncode == 0

    assert made()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert made()
    assert folder.stat().st_mode & 0o777 == 0o700
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        assert not made()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert not made()


def test_aws_lets_in_one_address_and_gives_one_bucket():
    config = read("cluster.yaml")
    for kind in config["available_node_types"].values():
        node = kind["node_config"]
        assert node["SecurityGroupIds"] == [f"sg-{NOT_SET}"]
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        assert all(device["Ebs"]["Encrypted"] for device in node["BlockDeviceMappings"])
    assert {kind["node_config"]["IamInstanceProfile"]["Name"] for kind in config["available_node_types"].values()} == {
        "rekd-head",
        "rekd-worker",
    }
    text = (ROOT / "clusters/aws/stack.yaml").read_text()
    assert "0.0.0.0/0" not in text
    stack = yaml.load(text, Loader=_Stack)
    assert all("Default" not in parameter for parameter in stack["Parameters"].values())
    pattern = stack["Parameters"]["Address"]["AllowedPattern"]
    assert re.fullmatch(pattern, "203.0.113.7/32")
    assert not re.fullmatch(pattern, "0.0.0.0/0")
    resources = stack["Resources"]
    (ssh,) = resources["Group"]["Properties"]["SecurityGroupIngress"]
    assert (ssh["FromPort"], ssh["ToPort"], ssh["CidrIp"]) == (22, 22, "!Ref Address")
    assert resources["AmongNodes"]["Properties"]["SourceSecurityGroupId"] == "!Ref Group"
    bucket = resources["BucketAccess"]["Properties"]["PolicyDocument"]["Statement"]
    assert all(re.search(r":s3:::\$\{Bucket\}(/\*)?$", statement["Resource"]) for statement in bucket)
    assert resources["WorkerRole"]["Properties"]["ManagedPolicyArns"] == ["!Ref BucketAccess"]
    assert "Policies" not in resources["WorkerRole"]["Properties"]
    for policy in resources["HeadRole"]["Properties"]["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert not any("*" in action for action in actions)
            if statement["Resource"] == "*":
                assert all(action.startswith(("ec2:Describe", "ssm")) for action in actions)
    (rule,) = resources["Results"]["Properties"]["LifecycleConfiguration"]["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert resources["Results"]["DeletionPolicy"] == "Retain"


class _Stack(yaml.SafeLoader):
    """CloudFormation's own tags as the text that they stand for."""


_Stack.add_multi_constructor("!", lambda loader, tag, node: f"!{tag} {node.value}")


def test_the_kubernetes_job_has_what_kuberay_asks_for():
    job, policy = yaml.safe_load_all((ROOT / "clusters/kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert spec["shutdownAfterJobFinishes"] is True
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] == 0
    gpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert group["maxReplicas"] * gpus == 120
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert {"name": "REKD_MOST_GPUS", "value": "120"} in head["env"]
    templates = [spec["submitterPodTemplate"], cluster["headGroupSpec"]["template"], group["template"]]
    images = {container["image"] for template in templates for container in template["spec"]["containers"]}
    assert len(images) == 1
    assert not any(image.endswith(":latest") for image in images)
    for params in (cluster["headGroupSpec"]["rayStartParams"], group["rayStartParams"]):
        assert all(isinstance(value, str) for value in params.values())  # the CRD takes strings only
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    # Every pod is under the policy, and the policy lets in those pods and the operator.
    assert all(template["metadata"]["labels"]["app"] == "rekd" for template in templates)
    assert policy["spec"]["podSelector"]["matchLabels"] == {"app": "rekd"}
    own, operator = policy["spec"]["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": {"app": "rekd"}}}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    (pod,) = operator["from"]
    assert pod["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "kuberay-operator"}
    assert pod["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": NOT_SET}  # not any namespace


def schema(name: str) -> dict[str, Any]:
    return json.loads(gzip.decompress((ROOT / "tests/fixtures/schemas" / name).read_bytes()))


def closed(part: Any) -> Any:
    """A schema of Kubernetes as its server reads it: a field that is not in it is refused."""
    if isinstance(part, list):
        return [closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    part = {name: closed(each) for name, each in part.items()}
    if part.get("x-kubernetes-int-or-string") is True:
        part = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    if isinstance(part.get("properties"), dict) and part.get("type") == "object":
        part.setdefault("additionalProperties", False)
    return part


def complaints(schema: dict[str, Any], config: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(schema).iter_errors(config)]


def test_kuberay_takes_the_job():
    rayjob = closed(schema("rayjob-1.5.1.json.gz"))
    rayjob["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own
    job = next(yaml.safe_load_all((ROOT / "clusters/kubernetes.yaml").read_text()))
    assert complaints(rayjob, job) == []
    wrong = copy.deepcopy(job)
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    del wrong["spec"]["submitterPodTemplate"]["spec"]["containers"]
    wrong["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    said = " ".join(complaints(rayjob, wrong))
    for words in ("'maxReplica' was unexpected", "'containers' is a required property", "0 is not of type 'string'"):
        assert words in said


def test_skypilot_takes_the_task():
    schemas = schema("skypilot-0.14.1.json.gz")
    task = read("clusters/skypilot.yaml")
    assert complaints(schemas["task"], task) == []
    assert complaints(schemas["resources"], task["resources"]) == []
    assert complaints(schemas["task"], task | {"setups": "true"})
    assert complaints(schemas["resources"], {"any_of": [{"accelerator": "L40S:1"}]})


@pytest.mark.parametrize("script", ["clusters/slurm.sbatch", "clusters/aws/setup.sh", "clusters/aws/check_gpu.sh"])
def test_scripts_are_bash(script):
    assert subprocess.run(["bash", "-n", ROOT / script], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("devices", "driver", "words"),
    [
        ("Amazon Elastic Network Adapter", "no such command", None),
        ("3D controller: NVIDIA Corporation AD102GL [L40S]", "echo 580.95.05", None),
        ("3D controller: NVIDIA Corporation AD102GL [L40S]", "echo 570.86.15", "570.86.15 is older than 580"),
        (
            "3D controller: NVIDIA Corporation AD102GL [L40S]",
            "echo No devices were found; exit 6",
            "No devices were found",
        ),
    ],
)
def test_a_machine_whose_gpu_torch_cannot_use_is_not_used(devices, driver, words, tmp_path):
    for name, line in (("lspci", f"echo '00:1e.0 {devices}'"), ("nvidia-smi", driver)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    script = ROOT / "clusters/aws/check_gpu.sh"
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", script], env=path, capture_output=True, text=True)
    assert done.returncode == (words is not None)
    assert (words or "") in done.stderr
    assert "check_gpu.sh" in (ROOT / "clusters/aws/setup.sh").read_text()


class _Metadata(http.server.BaseHTTPRequestHandler):
    """AWS's service for a machine, which announces its end from the second question on."""

    num_questions = 0

    def do_PUT(self) -> None:
        self._answer(200, b"session")

    def do_GET(self) -> None:
        assert self.headers["X-aws-ec2-metadata-token"] == "session"
        assert self.path == "/latest/meta-data/spot/instance-action"
        type(self).num_questions += 1
        self._answer(404 if self.num_questions == 1 else 200, b"")

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


def test_an_announced_end_of_a_spot_machine_is_told_to_ray_until_it_has_heard(tmp_path):
    """By Python's own modules: a machine image need not have curl."""
    ray = tmp_path / "ray"
    ray.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/said\ntest $(wc -l < {tmp_path}/said) = 2\n'
    )  # not the first time
    ray.chmod(0o755)
    script = "import sys; from watch_spot import main; main(sys.argv[1], 0.01, sys.argv[2])"
    with http.server.HTTPServer(("127.0.0.1", 0), _Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        service = f"http://127.0.0.1:{server.server_port}"
        done = subprocess.run(
            [sys.executable, "-S", "-c", script, service, ray],
            cwd=ROOT / "clusters/aws",
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "."},
            timeout=30,
        )
        server.shutdown()
    assert done.returncode == 0
    assert _Metadata.num_questions == 3
    first, second = (tmp_path / "said").read_text().splitlines()
    assert first == second
    assert first.startswith("drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message")


def test_the_slurm_job_is_the_papers_size_and_has_its_own_token():
    text = (ROOT / "clusters/slurm.sbatch").read_text()
    options = " ".join(re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE))
    assert int(re.search(r"--nodes=(\d+)", options)[1]) * int(re.search(r"--gpus-per-node=(\d+)", options)[1]) == 120
    assert "export RAY_AUTH_TOKEN RAY_AUTH_MODE=token" in text
    assert text.index("RAY_AUTH_MODE=token") < text.index("ray symmetric-run")
    made = """srun --ntasks-per-node=1 sh -c 'rm -rf "$RAY_TMPDIR" && mkdir -m 700 "$RAY_TMPDIR"'"""
    assert text.index("export RAY_TMPDIR=") < text.index(made) < text.index("ray symmetric-run")


@pytest.mark.parametrize(
    ("arguments", "word"), [((), "Usage"), (("alpha_sweep.py",), "Usage"), (("a.py", "--store", "/x"), "No .venv here")]
)
def test_a_slurm_job_that_cannot_run_ends_at_once(arguments, word, tmp_path):
    done = subprocess.run(
        ["bash", ROOT / "clusters/slurm.sbatch", *arguments],
        env={"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert word in done.stderr


def test_no_file_of_the_project_holds_a_token_or_a_key():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    secret = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----|[Bb]earer [0-9a-f]{32}")
    for file in listed.stdout.splitlines():
        path = ROOT / file
        if path.suffix in (".py", ".yaml", ".toml", ".md", ".sh", ".sbatch", ".txt", "") and path.is_file():
            assert not secret.search(path.read_text(errors="replace")), file
