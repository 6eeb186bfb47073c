"""A store's files appear whole or not at all."""

import errno
import threading
from pathlib import Path

import pytest

import rekd.store.files as store_module
from rekd.store.files import Store, StoreUnavailableError


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
        store.set_aside(store.trial_file("a"), "is damaged")
        assert not store.exists(store.trial_file("a"))
    assert set_aside(store) == {b"one", b"two"}


def set_aside(store: Store) -> set[bytes]:
    """Contents of what was set aside."""
    return {store.read(f"{store.set_aside_folder}/{name}") for name in store.names_in(store.set_aside_folder)}


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
    store.set_aside(store.trial_file("a"), "is damaged")
    assert set_aside(store) == {b"content"}
    assert not store.exists(store.trial_file("a"))


def test_an_address_that_nothing_opens_is_refused():
    with pytest.raises(ValueError, match="The store nowhere://bucket/folder cannot be opened"):
        Store("nowhere://bucket/folder")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA123:hush/hush@bucket/folder",
        "s3://AKIA123:hush@bucket/folder?region=us-east-1",
        "s3://bucket/folder?secret_key=hush",
        "abfs://:hush@container/folder",
        "https://bucket/folder?sig=hush",
    ],
)
def test_an_address_that_holds_a_secret_is_refused_without_telling_it(uri):
    with pytest.raises(ValueError, match="Leave it out") as refused:
        Store(uri)
    assert "hush" not in str(refused.value)


def test_a_user_without_a_password_is_no_secret():
    assert Store("gs://anonymous@bucket/folder").root == "bucket/folder"


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


# --- Setting aside --------------------------------------------------------------------------------------------------

DENIED = OSError("When copying key 'a': AWS Error ACCESS_DENIED during CopyObject operation: Access Denied")
FAILED = OSError("When copying key 'a': AWS Error INTERNAL_FAILURE during CopyObject operation: try again")
GONE = OSError("When copying key 'a': AWS Error NO_SUCH_KEY during CopyObject operation: gone")


class Immovable:
    """A store's file system that moves nothing the first few times."""

    def __init__(self, store: Store, monkeypatch, error: OSError, failures: int = 1000) -> None:
        self.asked, self.failures, self.error, self.inner = 0, failures, error, store.file_system
        monkeypatch.setattr(store_module, "PATIENCE", 1.0)
        store.file_system = self

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def move(self, source: str, destination: str) -> None:
        self.asked += 1
        if self.asked <= self.failures:
            raise self.error
        self.inner.move(source, destination)


def test_setting_aside_is_tried_again_where_the_store_fails(store, monkeypatch):
    store.write(store.trial_file("a"), b"content")
    immovable = Immovable(store, monkeypatch, FAILED, failures=2)
    store.set_aside(store.trial_file("a"), "is damaged")
    assert immovable.asked == 3
    assert set_aside(store) == {b"content"}


@pytest.mark.parametrize("error", [DENIED, PermissionError(errno.EACCES, "no"), OSError(errno.EROFS, "no")])
def test_where_nothing_may_be_written_a_file_stays_and_the_reader_goes_on_at_once(store, monkeypatch, caplog, error):
    store.write(store.trial_file("a"), b"content")
    immovable = Immovable(store, monkeypatch, error)
    store.set_aside(store.trial_file("a"), "is damaged")
    assert immovable.asked == 1
    assert store.read(store.trial_file("a")) == b"content"
    (record,) = caplog.records
    assert f"{store.trial_file('a')} is damaged. It cannot be set aside" in record.message


def test_where_the_store_fails_for_long_a_file_stays_and_the_reader_goes_on(store, monkeypatch, caplog):
    store.write(store.trial_file("a"), b"content")
    Immovable(store, monkeypatch, FAILED)
    store.set_aside(store.trial_file("a"), "is damaged")
    assert store.read(store.trial_file("a")) == b"content"
    assert "It cannot be set aside (setting" in caplog.text


@pytest.mark.parametrize("error", [GONE, FileNotFoundError(errno.ENOENT, "gone")])
def test_a_file_that_another_process_has_set_aside_is_no_trouble(store, monkeypatch, caplog, error):
    immovable = Immovable(store, monkeypatch, error)
    store.set_aside(store.trial_file("a"), "is damaged")
    assert immovable.asked == 1
    assert caplog.records == []
