"""Makes a machine image on which the environment is installed, and prints its line for cluster.yaml.

  python clusters/aws/make_image.py     # the cluster file filled in; a machine as the head's is rented for some minutes

Not of a running cluster's machine: that has a token and a key on its disk. Type it again after constraints.txt has changed; old
images, and the snapshots behind them, are paid for until you remove them.
"""

import subprocess
import sys
import time
from typing import Any

import boto3
import yaml

from rekd.cluster.ray_cluster import NOT_SET, ROOT, RayCluster

FILES = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "rekd")


def main() -> str:
    """The new image's name."""
    text = (ROOT / "cluster.yaml").read_text()
    if NOT_SET in text:
        sys.exit(f"cluster.yaml still has {NOT_SET} in it. docs/cluster.md has the steps that give these values.")
    config = yaml.safe_load(text)
    ec2 = boto3.resource("ec2", region_name=config["provider"]["region"])
    machine = rent(ec2, config["available_node_types"][config["head_node_type"]]["node_config"])
    try:
        machine.wait_until_running()
        machine.reload()
        install(RayCluster(file="cluster.yaml", head=machine.public_ip_address, config=config))
        machine.stop()  # so that all of it is on the disk
        machine.wait_until_stopped()
        image = machine.create_image(Name=f"rekd-{time.strftime('%Y-%m-%d-%H%M%S')}")
        image.wait_until_exists(Filters=[{"Name": "state", "Values": ["available"]}])
        return image.id
    finally:
        machine.terminate()


def rent(ec2: Any, node: dict[str, Any]) -> Any:
    """A machine as the head's, without its role, in the first subnet that gives addresses."""
    wanted = ("InstanceType", "ImageId", "KeyName", "SecurityGroupIds", "MetadataOptions", "BlockDeviceMappings")
    group = ec2.SecurityGroup(node["SecurityGroupIds"][0])
    public = [{"Name": "vpc-id", "Values": [group.vpc_id]}, {"Name": "map-public-ip-on-launch", "Values": ["true"]}]
    subnet = next(iter(ec2.subnets.filter(Filters=public)), None)
    if subnet is None:
        sys.exit(f"The network {group.vpc_id} of {group.id} has no public subnet.")
    order = {name: node[name] for name in wanted} | {"SubnetId": subnet.id, "MinCount": 1, "MaxCount": 1}
    return ec2.create_instances(**order)[0]


def install(machine: RayCluster) -> None:
    """What setup.sh does on every machine, done once."""
    deadline = time.monotonic() + 300
    while subprocess.run(machine.ssh("mkdir -p ~/.rekd/package ~/.rekd/aws"), capture_output=True).returncode:
        if time.monotonic() > deadline:
            sys.exit(f"{machine.head} does not let us in within five minutes.")
        time.sleep(5)
    *ssh, target, _ = machine.ssh("")
    copy = ["rsync", "-a", "--exclude=__pycache__", "-e", " ".join(ssh)]
    subprocess.run([*copy, *(str(ROOT / file) for file in FILES), f"{target}:.rekd/package/"], check=True)
    subprocess.run([*copy, f"{ROOT}/clusters/aws/", f"{target}:.rekd/aws/"], check=True)
    subprocess.run(machine.ssh("bash ~/.rekd/aws/setup.sh && rm -rf ~/.rekd/disk/uv"), check=True)


if __name__ == "__main__":
    print(f"      ImageId: {main()} # made by clusters/aws/make_image.py")
