"""Words that messages share."""

import math

import numpy as np
import pytest

from rekd.messages import duration, number, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.3, "0.3"),
        (0.1 + 0.2, "0.30000000000000004"),
        (np.float64(1e-5), "1e-05"),
        (20260501, "20260501"),
        (20260501.0, "20260501.0"),
        (2.0, "2"),
        (float("nan"), "nan"),
    ],
)
def test_a_number_is_told_from_every_other(value, text):
    assert number(value) == text
    assert math.isnan(value) or float(text) == value


def test_a_time_is_short_and_one_that_is_not_known_is_empty():
    times = {3: "3 s", 600: "10 min", 3 * 3600 + 120: "3 h 02 min", 33 * 3600: "33 h", 12 * 86400: "12 days"}
    assert {seconds: duration(seconds) for seconds in times} == times
    assert duration(float("nan")) == ""


@pytest.mark.parametrize(
    ("num_bytes", "said"), [(0, "0 kB"), (12_400, "12 kB"), (3.5e9, "3.5 GB"), (682e6, "682 MB"), (3.1e13, "31 TB")]
)
def test_sizes_are_read_at_a_glance(num_bytes, said):
    assert size(num_bytes) == said
