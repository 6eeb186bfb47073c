#!/usr/bin/env bash
# Makes a machine of cluster.yaml ready for Ray: the environment of constraints.txt, on its fastest disk. Run again, it takes
# seconds: uv installs only what is missing.
set -euo pipefail
cd ~/.rekd
chmod 700 .
bash aws/check_gpu.sh

# Where the machine image mounts the NVMe of the instance, which is faster than the network's disk and goes with the machine.
nvme=/opt/dlami/nvme
if [ -d "$nvme" ] && [ ! -e disk ]; then # -n: Ray gives commands a terminal, at which sudo would wait for a password for ever
  sudo -n install -d -m 700 -o "$(id -u)" -g "$(id -g)" "$nvme/rekd"
  ln -s "$nvme/rekd" disk
fi
mkdir -p disk

# uv takes seconds where pip takes minutes. From the package index; where the image has no pip, from its makers.
if [ ! -x uv/bin/uv ]; then
  version=$(sed -n 's/^uv==//p' package/constraints.txt)
  python3 -m pip install --quiet --no-deps --target uv "uv==$version" ||
    curl -LsSf "https://astral.sh/uv/$version/install.sh" | UV_UNMANAGED_INSTALL="$PWD/uv/bin" sh
fi
export UV_CACHE_DIR="${UV_CACHE_DIR:-$PWD/disk/uv}" # beside the environment: what is in it is linked, not copied
if [ ! -e venv/bin/python ]; then # the Python of the tests, whatever the image has
  uv/bin/uv venv --quiet --python 3.11 disk/venv
  ln -sfn disk/venv venv
fi
uv/bin/uv pip install --quiet --python venv/bin/python -c package/constraints.txt "./package[aws]"
