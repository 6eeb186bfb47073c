"""Checkpoints: the newest whole one is found, whatever happened to the others."""

import logging
from pathlib import Path

import pytest
import torch
from disturbed import DAMAGES, damaged

from rekd.store.checkpoints import KEPT, Checkpoints
from rekd.store.files import DamagedFileError
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
