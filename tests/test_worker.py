"""A worker takes what trials share from the object store, and from storage what is lost there."""

import logging
import time
from pathlib import Path

import pytest
import ray
import tiny
import torch
from ray.exceptions import RayActorError, RayError

from rekd.cluster.connect import connect, disconnect
from rekd.running.object_store import _Directory, take
from rekd.running.worker import SharedSupplies
from rekd.store.saved_model import Weights

KEY = ("weights", "teacher")


@pytest.fixture(scope="module")
def cluster():
    connect(local=True, num_cpus=1)
    yield
    disconnect()


@pytest.fixture
def supplies(cluster, store, image_teacher):
    """Of a store with a teacher, and of a directory that knows nothing yet."""
    image_teacher.model.save(Path(store.model_folder("teacher")))
    return SharedSupplies(store, _Directory.remote())


def shelve(supplies: SharedSupplies, boxed: list[ray.ObjectRef]) -> None:
    ray.get(supplies.directory.put.remote(KEY, boxed))


def wait_until_lost(supplies: SharedSupplies) -> None:
    """Until Ray has noticed that the owner has ended."""
    for _ in range(300):
        try:
            take(supplies.directory, KEY)
        except RayError:
            return
        time.sleep(0.1)
    raise AssertionError("Ray still has it")


def test_what_the_object_store_has_is_taken_from_there(supplies):
    shelve(supplies, [ray.put(Weights(config={"from": "the object store"}, arrays={}))])
    assert supplies.fetch_weights("teacher").config == {"from": "the object store"}


def test_what_is_lost_with_its_owner_is_read_from_storage(supplies, image_teacher, caplog):
    @ray.remote(num_cpus=0)
    class Owner:
        def box(self) -> list[ray.ObjectRef]:
            return [ray.put(Weights(config={"from": "the object store"}, arrays={}))]

    owner = Owner.remote()
    shelve(supplies, ray.get(owner.box.remote()))
    ray.kill(owner)
    with pytest.raises(RayActorError):
        ray.get(owner.box.remote())
    wait_until_lost(supplies)

    with caplog.at_level(logging.WARNING):
        weights = supplies.fetch_weights("teacher")
    assert "('weights', 'teacher') is not in the object store" in caplog.text
    found = {name: torch.tensor(array) for name, array in weights.arrays.items()}
    assert tiny.same_tensors(found, image_teacher.model.state_dict())


def test_what_was_never_there_is_read_from_storage(supplies):
    assert supplies.fetch_weights("teacher").config["model_type"] == "rekd"
