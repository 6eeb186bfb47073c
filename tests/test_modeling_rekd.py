"""The file that an exported folder brings along: the same model without this program."""

import sys
from pathlib import Path

import pytest
import tiny
import torch

from rekd.method.models import RationaleModel

MODELING = Path(__file__).parent.parent / "rekd/handover/modeling_rekd.py"

from rekd.handover.export import write_folder
from rekd.handover.modeling_rekd import RekdModel
