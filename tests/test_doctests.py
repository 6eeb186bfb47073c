"""The examples in docstrings say what happens."""

import doctest
from importlib import import_module

import pytest

MODULES = (
    "rekd",
    "rekd.trial",
    "rekd.messages",
    "rekd.store.ledger",
    "rekd.tasks.task",
    "rekd.method.equations",
)
"""Those with public functions that an example makes clearer."""


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_right(name):
    found = doctest.testmod(import_module(name))
    assert found.failed == 0
    assert found.attempted > 0
