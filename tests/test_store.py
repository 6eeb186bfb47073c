"""A store's files appear whole or not at all."""

import errno
import threading
from pathlib import Path

import pytest

import rekd.store as store_module
from rekd.store import Store, StoreUnavailableError


def test_a_file_is_read_as_it_was_written(store):
    path = store.trial_file("a")
    assert not store.exists(path)
    store.write(path, b"first")
    store.write(path, b"second")
    assert store.read(path) == b"second"
    assert store.exists(path)
    with pytest.raises(FileNotFoundError):
        store.read(store.trial_file("b"))


def test_a_write_that_fails_leaves_what_stood_there_and_nothing_else(store):
    path = store.trial_file("a")
    store.write(path, b"first")
    with pytest.raises(TypeError):
        store.write(path, "text, not bytes")
    assert store.read(path) == b"first"
    assert [file.name for file in Path(store.trials_folder).iterdir()] == ["a.parquet"]

    (Path(store.trials_folder) / "b.parquet").mkdir()  # a rename onto a folder fails after the content was written
    with pytest.raises(OSError, match="directory"):
        store.write(store.trial_file("b"), b"content")
    assert sorted(file.name for file in Path(store.trials_folder).iterdir()) == ["a.parquet", "b.parquet"]


def test_a_reader_never_sees_half_a_file(store):
    path = store.trial_file("a")
    contents = [bytes([number]) * 500_000 for number in range(8)]
    store.write(path, contents[0])
    writers = [threading.Thread(target=store.write, args=(path, content)) for content in contents]
    for writer in writers:
        writer.start()
    seen = []
    while any(writer.is_alive() for writer in writers):
        seen.append(store.read(path))
    for writer in writers:
        writer.join()
    assert set(seen) | {store.read(path)} <= set(contents)


def test_names_are_sorted_and_leave_out_what_is_being_written(store):
    for name in ("b", "a"):
        store.write(store.trial_file(name), b"")
    (Path(store.trials_folder) / ".c.parquet.0123").write_bytes(b"half")
    assert store.names_in(store.trials_folder) == ["a.parquet", "b.parquet"]
    assert store.names_in(store.epochs_folder) == []


def test_a_file_that_is_set_aside_is_kept_elsewhere(store):
    for content in (b"one", b"two"):  # of the same name, and both are kept
        store.write(store.trial_file("a"), content)
        moved = store.set_aside(store.trial_file("a"))
        assert store.read(moved) == content
        assert not store.exists(store.trial_file("a"))
    assert len(store.names_in(store.set_aside_folder)) == 2


def test_a_folder_is_written_in_order_and_removed_whole(store):
    folder = store.model_folder("a")

    def files():
        yield "model.safetensors", b"weights"
        assert store.names_in(folder) == ["model.safetensors"]
        yield "config.json", b"{}"

    store.write_folder(folder, files())
    assert store.names_in(folder) == ["config.json", "model.safetensors"]
    store.write(store.trial_file("a"), b"")
    store.remove_folder(folder)
    store.remove_folder(folder)  # where there is none, nothing happens
    assert not store.exists(folder)
    assert store.exists(store.trial_file("a"))


def test_a_relative_path_is_one_place_for_all_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("results")
    assert store.uri_for_workers == str(tmp_path / "results")
    assert str(store) == "results"  # shown as it was given
    monkeypatch.chdir("/")
    store.write(store.trial_file("a"), b"")
    assert (tmp_path / "results" / "trials" / "a.parquet").is_file()


def test_a_file_uri_is_a_local_folder(tmp_path):
    store = Store(f"file://{tmp_path}/results")
    assert store.is_local
    store.write(store.trial_file("a"), b"content")
    assert Store(tmp_path / "results").read(store.trial_file("a")) == b"content"


def test_a_store_that_is_not_a_local_folder():
    store = Store("mock:///results")  # pyarrow's file system in memory
    assert not store.is_local
    assert store.uri_for_workers == "mock:///results"
    store.file_system.create_dir(store.trials_folder, recursive=True)  # an object store has no folders to create
    store.write(store.trial_file("a"), b"content")
    assert store.read(store.trial_file("a")) == b"content"
    assert store.names_in(store.trials_folder) == ["a.parquet"]
    moved = store.set_aside(store.trial_file("a"))
    assert store.read(moved) == b"content"
    assert not store.exists(store.trial_file("a"))


def test_an_address_that_nothing_opens_is_refused():
    with pytest.raises(ValueError, match="The store nowhere://bucket/folder cannot be opened"):
        Store("nowhere://bucket/folder")


class Refusing:
    """A file system that fails a number of times, then works."""

    def __init__(self, monkeypatch, failures: int, error: OSError) -> None:
        self.asked, self.failures, self.error = 0, failures, error
        monkeypatch.setattr(store_module, "PATIENCE", 2.0)
        monkeypatch.setattr(Store, "write_once", self.write)

    def write(self, path: str, content: bytes) -> None:
        self.asked += 1
        if self.asked <= self.failures:
            raise self.error


def test_a_store_that_refuses_for_a_while_is_asked_again(store, monkeypatch):
    refusing = Refusing(monkeypatch, 3, OSError(errno.ENOSPC, "No space left on device"))
    store.write(store.trial_file("a"), b"content")
    assert refusing.asked == 4


def test_a_store_that_refuses_for_long_is_unavailable(store, monkeypatch):
    Refusing(monkeypatch, 1000, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(StoreUnavailableError, match="No space left"):
        store.write(store.trial_file("a"), b"content")


def test_what_waiting_does_not_mend_comes_at_once(store, monkeypatch):
    refusing = Refusing(monkeypatch, 1000, PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(PermissionError):
        store.write(store.trial_file("a"), b"content")
    assert refusing.asked == 1
