"""A store's files appear whole or not at all."""

import errno
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

import rekd.store.files as store_module
from rekd.store.files import Store, StoreRefusedError, StoreUnavailableError


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
        store.set_aside(store.trial_file("a"), content, "is damaged")
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
    store.file_system.create_dir(store.set_aside_folder)
    store.set_aside(store.trial_file("a"), b"content", "is damaged")
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
        "s3://AKIA123%3Ahush@bucket/folder",
        "s3://AKIA123%253Ahush%40bucket/folder",
        "s3://AKIA123:h%75sh@bucket/folder",
        "s3://bucket/folder?%73ecret_key=hush",
    ],
)
def test_an_address_that_holds_a_secret_is_refused_without_telling_it(uri):
    with pytest.raises(ValueError, match="Leave it out") as refused:
        Store(uri)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "The store has an empty address"),
        ("  ", "The store has an empty address"),
        ("s3:/bucket/folder", "Write s3://bucket/folder, or ./s3:/bucket/folder for a folder"),
        ("s3:bucket", "Write s3://bucket"),
        ("S3:/bucket", "Write S3://bucket"),
        ("file:/folder", "Write file://folder"),
    ],
)
def test_an_address_that_was_mistyped_does_not_become_a_folder(uri, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        Store(uri)


def test_a_folder_may_have_a_colon_in_its_name(tmp_path):
    assert Store(tmp_path / "run:1").root == str(tmp_path / "run:1")
    assert Store("./s3:/b").root.endswith("/s3:/b")


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


def test_a_process_that_was_stopped_during_a_call_asks_again(store, monkeypatch):
    """For longer than its patience, and the call then fails."""
    refusing = Refusing(monkeypatch, 1, OSError(errno.ENOTCONN, "Connection lost"))
    now = iter(range(0, 10_000, 400))
    monkeypatch.setattr(store_module, "PATIENCE", 300.0)
    monkeypatch.setattr(store_module, "time", SimpleNamespace(monotonic=lambda: next(now), sleep=lambda seconds: None))
    store.write(store.trial_file("a"), b"content")
    assert refusing.asked == 2


def test_what_waiting_does_not_mend_comes_at_once(store, monkeypatch):
    refusing = Refusing(monkeypatch, 1000, PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(PermissionError):
        store.write(store.trial_file("a"), b"content")
    assert refusing.asked == 1


# --- S3 that refuses --------------------------------------------------------------------------------------------------


class Answers(BaseHTTPRequestHandler):
    """S3 with one answer to everything: an error of that status and code, or 200."""

    protocol_version = "HTTP/1.1"
    server: "S3"

    def handle_one(self) -> None:
        self.server.asked.append((self.command, self.path))
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.rfile.read(size + 2)
            while self.rfile.readline().strip():  # trailers
                pass
        status, code = self.server.answer
        is_empty = self.command == "HEAD" or status == 200
        body = b"" if is_empty else f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        """No line a request."""


class S3(ThreadingHTTPServer):
    answer: tuple[int, str]
    """What it says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked: list[tuple[str, str]] = []
        """Method and path of each request."""


@pytest.fixture(scope="module")
def s3():
    server = S3()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def s3_store(s3, monkeypatch):
    keys = {"AWS_ACCESS_KEY_ID": "dummy", "AWS_SECRET_ACCESS_KEY": "dummy", "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    port = s3.server_address[1]
    return Store(f"s3://bucket/folder?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1")


def test_a_small_file_goes_to_s3_in_one_request(s3, s3_store):
    """An upload in parts, if it is killed, stays in the bucket and is paid for."""
    s3.answer, s3.asked = (200, ""), []
    s3_store.write_once(s3_store.trial_file("a"), b"content")
    assert [(method, path.partition("?")[2]) for method, path in s3.asked] == [("PUT", "")]


OPERATIONS = {
    "write": lambda store, path: store.write(path, b"content"),
    "read": lambda store, path: store.read(path),
    "exists": lambda store, path: store.exists(path),
    "names": lambda store, path: store.names_in(path),
    "states": lambda store, path: store.states_in(path),
    "remove": lambda store, path: store.remove_file(path),
    "remove a folder": lambda store, path: store.remove_folder(path),
}

REFUSED = [
    (403, "AccessDenied"),
    (403, "InvalidAccessKeyId"),
    (403, "SignatureDoesNotMatch"),
    (401, "Unauthorized"),
    (400, "ExpiredToken"),
    (301, "PermanentRedirect"),
]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("status", "code"), REFUSED)
def test_s3_that_refuses_is_told_at_once(s3, s3_store, monkeypatch, status, code, operation):
    monkeypatch.setattr(store_module.time, "sleep", lambda seconds: pytest.fail("it is asked again"))
    s3.answer = status, code
    with pytest.raises(StoreRefusedError, match=r"^The store refuses \w+ .*bucket/folder/a: .*AWS Error"):
        OPERATIONS[operation](s3_store, f"{s3_store.root}/a")


def test_a_bucket_that_is_not_there_is_told_at_once(s3, s3_store, monkeypatch):
    """For who only reads it is an empty store."""
    monkeypatch.setattr(store_module.time, "sleep", lambda seconds: pytest.fail("it is asked again"))
    s3.answer = 404, "NoSuchBucket"
    with pytest.raises(StoreRefusedError, match="NO_SUCH_BUCKET"):
        s3_store.write(f"{s3_store.root}/a", b"")
    with pytest.raises(StoreRefusedError, match="NO_SUCH_BUCKET"):
        s3_store.remove_folder(f"{s3_store.root}/a")
    with pytest.raises(ValueError, match=r"cannot be written.*NO_SUCH_BUCKET"):
        s3_store.check_writable()
    assert not s3_store.exists(s3_store.root)


def test_s3_that_errs_is_asked_again(store, monkeypatch):
    refusing = Refusing(monkeypatch, 2, OSError("AWS Error INTERNAL_FAILURE during PutObject operation: try again"))
    store.write(store.trial_file("a"), b"content")
    assert refusing.asked == 3


# --- Setting aside --------------------------------------------------------------------------------------------------


def test_what_is_kept_aside_stays_where_it_is_and_is_told_once(store, caplog):
    path = store.trial_file("a")
    store.write(path, b"damaged")
    for _ in range(2):
        store.keep_aside(path, b"damaged", "is damaged")
    assert store.read(path) == b"damaged"
    (name,) = store.names_in(store.set_aside_folder)
    (record,) = caplog.records
    assert record.message == f"{path} is damaged. What was read is kept as {store.set_aside_folder}/{name}."


def test_what_another_process_has_written_since_is_not_set_aside(store):
    store.write(store.trial_file("a"), b"good")
    store.set_aside(store.trial_file("a"), b"what was read", "is damaged")
    assert store.read(store.trial_file("a")) == b"good"
    assert set_aside(store) == {b"what was read"}


def test_a_file_that_another_process_has_removed_is_no_trouble(store):
    store.set_aside(store.trial_file("a"), b"what was read", "is damaged")
    assert set_aside(store) == {b"what was read"}


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), OSError(errno.EROFS, "no"), OSError("fails")])
def test_where_nothing_may_be_written_a_file_stays_and_the_reader_goes_on(store, monkeypatch, caplog, error):
    store.write(store.trial_file("a"), b"content")
    refusing = Refusing(monkeypatch, 1000, error)
    monkeypatch.setattr(store_module, "PATIENCE", 0.2)
    monkeypatch.setattr(Store, "remove_file", lambda self, path: refusing.write(path, b""))
    store.set_aside(store.trial_file("a"), b"content", "is damaged")
    assert store.read(store.trial_file("a")) == b"content"
    assert f"{store.trial_file('a')} is damaged. It cannot be set aside" in caplog.text
    assert (refusing.asked == 2) == (error.errno is not None), "once each, where waiting does not mend it"
