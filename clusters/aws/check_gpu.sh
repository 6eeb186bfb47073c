#!/usr/bin/env bash
# Ends with 1 and a word where a machine has a GPU that torch cannot use: trials would run on its CPU, at the price of the GPU.
set -uo pipefail
lspci 2> /dev/null | grep -qi nvidia || exit 0 # as on the head
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>&1 | head -n 1)
if [[ ! $driver =~ ^[0-9]+\. ]]; then
  echo "The GPU does not answer: $driver" >&2
  exit 1
fi
if ((${driver%%.*} < 580)); then
  echo "The driver $driver is older than 580, which torch's CUDA 13 needs. Take a newer machine image in cluster.yaml." >&2
  exit 1
fi
