"""Checkpoints: the newest whole one is found, whatever happened to the others."""

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from disturbed import DAMAGES, damaged

from rekd.store.checkpoints import KEPT, Best, Checkpoints, CheckpointWriter
from rekd.store.files import DamagedFileError, Store, StoreUnavailableError
from rekd.store.packed import pack, unpack

TENSORS = {
    "weights": torch.arange(6.0).reshape(2, 3),
    "half": torch.tensor([1.5, -0.0, float("nan"), float("inf")]).bfloat16(),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "nothing": torch.empty(0),
    "number": torch.tensor(3.0),
}
STATE = {"epoch": 2, "best_loss": 0.1, "records": [{"epoch": 1, "dev_loss": 1 / 3, "diverged": None}]}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and torch.equal(left[name].reshape(-1).view(torch.uint8), right[name].reshape(-1).view(torch.uint8))
        for name in left
    )


def test_what_is_packed_is_unpacked_to_the_last_bit():
    tensors, state = unpack(pack(TENSORS, STATE))
    assert same(tensors, TENSORS)
    assert state == STATE
    strided = torch.arange(6.0).reshape(2, 3).T
    assert torch.equal(unpack(pack({"strided": strided}, {}))[0]["strided"], strided)


def test_any_flipped_bit_is_noticed():
    content = pack(TENSORS, STATE)
    for place in range(len(content)):
        flipped = content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :]
        try:
            tensors, state = unpack(flipped)
        except DamagedFileError:
            continue
        assert same(tensors, TENSORS), place  # the bit was one of spelling, such as a space of the header
        assert state == STATE


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_is_noticed(how):
    with pytest.raises(DamagedFileError):
        unpack(damaged(pack(TENSORS, STATE), how))


def test_a_state_that_json_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="cannot be written the same way twice"):
        pack({}, {"epoch": torch.tensor(1)})


def test_the_newest_is_found_and_only_the_last_two_are_kept(store):
    checkpoints = Checkpoints(store, "digest")
    assert checkpoints.latest() is None
    for epoch in range(1, 13):
        checkpoints.save(epoch, {"epoch": torch.tensor(epoch)}, {"epoch": epoch})
        newest = checkpoints.latest()
        assert (newest[0]["epoch"].item(), newest[1]) == (epoch, {"epoch": epoch})
    assert store.names_in(checkpoints.folder) == ["epoch-00011.safetensors", "epoch-00012.safetensors"]
    assert KEPT == 2


def test_checkpoints_of_one_trial_are_not_those_of_another(store):
    Checkpoints(store, "one").save(1, {}, {"epoch": 1})
    assert Checkpoints(store, "two").latest() is None
    Checkpoints(store, "two").save(5, {}, {"epoch": 5})
    Checkpoints(store, "two").clear()
    assert Checkpoints(store, "two").latest() is None
    assert Checkpoints(store, "one").latest()[1] == {"epoch": 1}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_one_is_set_aside_and_the_one_before_is_used(store, caplog, how):
    checkpoints = Checkpoints(store, "digest")
    for epoch in (1, 2):
        checkpoints.save(epoch, TENSORS, {"epoch": epoch})
    newest = Path(checkpoints.folder) / "epoch-00002.safetensors"
    content = damaged(newest.read_bytes(), how)
    newest.write_bytes(content)

    with caplog.at_level(logging.WARNING):
        state = checkpoints.latest()[1]
    assert state == {"epoch": 1}
    (record,) = caplog.records
    assert "epoch-00002" in record.message
    assert "is damaged" in record.message
    (name,) = store.names_in(store.set_aside_folder)
    assert store.read(f"{store.set_aside_folder}/{name}") == content


def test_where_all_are_damaged_the_run_starts_anew(store, caplog):
    checkpoints = Checkpoints(store, "digest")
    for epoch in (1, 2):
        checkpoints.save(epoch, TENSORS, {"epoch": epoch})
        (Path(checkpoints.folder) / f"epoch-{epoch:05d}.safetensors").write_bytes(b"")
    assert checkpoints.latest() is None
    assert len(caplog.records) == 2


def test_a_half_written_one_is_not_seen(store):
    checkpoints = Checkpoints(store, "digest")
    checkpoints.save(1, TENSORS, {"epoch": 1})
    (Path(checkpoints.folder) / ".epoch-00002.safetensors.0123").write_bytes(b"half")
    assert checkpoints.latest()[1] == {"epoch": 1}


# --- The best version -------------------------------------------------------------------------------------------------


def saved(checkpoints: Checkpoints, epoch: int, *, best: int) -> None:
    tensors = {"epoch": torch.tensor(epoch)}
    checkpoints.save(epoch, tensors, {"epoch": epoch}, Best(best, {"weights": torch.full((3,), float(best))}))


def test_the_best_version_is_written_when_it_has_changed_and_comes_with_each_checkpoint(store):
    checkpoints = Checkpoints(store, "digest")
    written = {}
    for epoch, best in enumerate((1, 2, 2, 2, 5, 5), start=1):
        saved(checkpoints, epoch, best=best)
        newest = checkpoints.latest()
        assert newest is not None
        tensors, state = newest
        assert state == {"epoch": epoch}
        assert tensors["best.weights"].tolist() == [best] * 3
        files = [name for name in store.names_in(checkpoints.folder) if name.startswith("best-")]
        written |= {name: Path(checkpoints.folder, name).stat().st_mtime_ns for name in files if name not in written}
        assert all(Path(checkpoints.folder, name).stat().st_mtime_ns == written[name] for name in files)
        # Those that the checkpoints that stay name.
        assert [int(name[5:10]) for name in files] == {1: [1], 2: [1, 2], 3: [2], 4: [2], 5: [2, 5], 6: [5]}[epoch]
    assert len(written) == 3


def test_a_process_that_goes_on_does_not_write_the_best_version_again(store, monkeypatch):
    saved(Checkpoints(store, "digest"), 1, best=1)
    again = Checkpoints(store, "digest")
    assert again.latest() is not None
    paths = []
    write = Store.write
    monkeypatch.setattr(Store, "write", lambda store, path, content: (paths.append(path), write(store, path, content)))
    saved(again, 2, best=1)
    assert [Path(path).name for path in paths] == ["epoch-00002.safetensors"]


def test_the_best_version_of_a_checkpoint_that_does_not_fit_is_not_taken_for_the_new_runs(store):
    """Where the new run's first checkpoint comes late (`--checkpoint-every`), its best epoch may be the same."""
    saved(Checkpoints(store, "digest"), 3, best=2)
    checkpoints = Checkpoints(store, "digest")
    assert checkpoints.latest(lambda tensors, state: "another shape") is None
    checkpoints.save(3, {}, {"epoch": 3}, Best(2, {"weights": torch.tensor([7.0])}))
    assert checkpoints.latest()[0]["best.weights"].tolist() == [7.0]


@pytest.mark.parametrize("damage", ["gone", "another", *DAMAGES])
def test_a_checkpoint_whose_best_version_is_not_what_was_written_is_set_aside(damage, store, caplog):
    checkpoints = Checkpoints(store, "digest")
    saved(checkpoints, 1, best=1)
    saved(checkpoints, 2, best=2)
    first, second = (Path(checkpoints.folder, name) for name in store.names_in(checkpoints.folder)[:2])
    if damage == "gone":
        second.unlink()
    else:
        second.write_bytes(first.read_bytes() if damage == "another" else damaged(second.read_bytes(), damage))
    assert checkpoints.latest()[1] == {"epoch": 1}
    assert f"its best version, {second.name}, is" in caplog.text
    saved(checkpoints, 2, best=2)
    assert checkpoints.latest()[1] == {"epoch": 2}


# --- Behind the back of training --------------------------------------------------------------------------------------


class Held(Checkpoints):
    """Checkpoints that are written when they may be, or fail."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, "digest")
        self.may_write = threading.Event()
        self.errors: list[Exception] = []

    def save(self, *arguments: Any) -> None:
        assert self.may_write.wait(60)
        if self.errors:
            raise self.errors.pop()
        super().save(*arguments)


def test_what_is_written_is_the_moment_of_the_call_whatever_becomes_of_the_tensors(store):
    checkpoints, weights = Held(store), torch.zeros(3)
    with CheckpointWriter(checkpoints) as writer:
        writer.save(1, {"weights": weights}, {"epoch": 1})
        weights += 1  # as the next epoch does
        checkpoints.may_write.set()
    assert checkpoints.latest()[0]["weights"].tolist() == [0, 0, 0]


def test_an_error_of_writing_is_raised_at_the_next_epoch_and_at_the_end(store):
    checkpoints = Held(store)
    checkpoints.may_write.set()
    checkpoints.errors = [StoreUnavailableError("second"), StoreUnavailableError("first")]
    writer = CheckpointWriter(checkpoints)
    writer.save(1, {}, {"epoch": 1})
    with pytest.raises(StoreUnavailableError, match="first"):
        writer.save(2, {}, {"epoch": 2})
    writer.save(2, {}, {"epoch": 2})
    with pytest.raises(StoreUnavailableError, match="second"), writer:
        pass
    assert checkpoints.latest() is None


def test_an_error_of_writing_does_not_hide_what_went_wrong_before(store, caplog):
    checkpoints = Held(store)
    checkpoints.may_write.set()
    checkpoints.errors = [StoreUnavailableError("no room")]
    writer = CheckpointWriter(checkpoints)
    writer.save(1, {}, {"epoch": 1})
    with pytest.raises(KeyError), writer:
        raise KeyError
    assert "The last checkpoint was not written: no room" in caplog.text


def test_training_waits_for_a_slow_store_only_where_an_epoch_is_shorter(store):
    """A store that takes 0.15 s a checkpoint: epochs of 0.3 s wait for nothing, epochs of nothing for each."""

    class Slow(Checkpoints):
        def save(self, *arguments: Any) -> None:
            time.sleep(0.15)

    waited = {}
    for seconds in (0.3, 0.0):
        with CheckpointWriter(Slow(store, "digest")) as writer:
            for epoch in (1, 2, 3):
                time.sleep(seconds)
                writer.save(epoch, TENSORS, {"epoch": epoch})
        waited[seconds] = writer.seconds_waited
    assert waited[0.3] < 0.15 < 0.25 <= waited[0.0]
