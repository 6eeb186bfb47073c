"""Tells Ray that AWS is about to take this spot machine back, so that no trial is put on it any more.

Ray itself does not listen for the announcement. This runs beside Ray on every worker, until it was heard or the machine ends.
Python's own modules only.
"""

import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

SERVICE = "http://169.254.169.254"
EVERY = 5.0
"""Seconds between two looks: AWS announces two minutes ahead and asks for a look every five seconds."""
RAY = Path(sys.executable).with_name("ray")
# No deadline: with one, Ray takes an earlier end for an accident.
DRAIN = ("drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot machine taken back")


def main(service: str = SERVICE, every: float = EVERY, ray: str = str(RAY)) -> None:
    """Waits for the announcement, and passes it on until Ray has taken it."""
    while True:
        time.sleep(every)
        try:
            if is_announced(service) and subprocess.run([ray, *DRAIN]).returncode == 0:
                return
        except OSError as error:  # the service is out of reach for a moment
            print(error, flush=True)


def is_announced(service: str) -> bool:
    """Whether AWS has said that this machine is to be stopped or taken."""
    lasting = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    with urlopen(Request(f"{service}/latest/api/token", method="PUT", headers=lasting), timeout=2) as answer:
        token = answer.read().decode()
    page = f"{service}/latest/meta-data/spot/instance-action"
    try:
        with urlopen(Request(page, headers={"X-aws-ec2-metadata-token": token}), timeout=2):
            return True
    except HTTPError as error:
        if error.code == 404:  # the page is there only when there is something to say
            return False
        raise


if __name__ == "__main__":
    main()
