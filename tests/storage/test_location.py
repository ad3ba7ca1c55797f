"""Locations: typed text becomes a path or a URL, and both behave alike."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from wsi_magnet.config import RunConfig
from wsi_magnet.errors import ConfigError, StoreError
from wsi_magnet.storage import conditional as conditions
from wsi_magnet.storage import location as places
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, Url, to_location


@pytest.fixture(params=["file", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """Location of each kind that does not exist yet."""
    if request.param == "file":
        return to_location(f"file://{tmp_path}/new")
    if request.param == "memory":
        return to_location(f"memory://{uuid4().hex}/new")
    return to_location(str(request.getfixturevalue("bucket")))


def test_typed_locations() -> None:
    assert to_location("results/x") == Path("results/x")
    assert to_location("~/x") == Path.home() / "x"
    assert to_location("file:///data/x") == Path("/data/x")
    assert to_location(Path("/a")) == Path("/a")
    url = to_location("S3://bucket//a/b/")
    assert url == Url("s3", "bucket/a/b")
    assert str(url / "c.svs") == "s3://bucket/a/b/c.svs"
    assert (url.name, (url / "c.svs").suffix, str(url.parent)) == ("b", ".svs", "s3://bucket/a")
    assert to_location(url) is url
    assert pickle.loads(pickle.dumps(url)) == url


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("s3://", "names no bucket"),
        ("sftp://host/x", "no object store; mount it"),
        ("https://host/x", "no object store"),
        ("s3://key:secret@bucket/x", "credentials do not belong"),
    ],
)
def test_what_cannot_hold_a_result(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        to_location(text)
    assert "secret" not in str(caught.value)


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(protocol: str) -> None:
        raise ImportError(protocol)

    monkeypatch.setattr("fsspec.get_filesystem_class", absent)
    with pytest.raises(StoreError, match=r"pip install '\.\[s3\]'"):
        to_location("s3://bucket/x")


def test_what_is_written_is_there_whole(folder: Location) -> None:
    places.make_folder(folder)
    assert places.names(folder) == []
    assert not places.exists(folder / "a")
    places.replace_bytes(folder / "a", b"first")
    places.replace_bytes(folder / "a", b"second")
    assert places.read_bytes(folder / "a") == b"second"
    assert places.size_bytes(folder / "a") == 6
    assert places.size_bytes(folder / "b") is None
    assert places.names(folder) == ["a"]
    with pytest.raises(FileNotFoundError):
        places.read_bytes(folder / "b")


def test_only_what_is_meant_is_deleted(folder: Location) -> None:
    """The libraries below take some names for patterns, and slides have such names."""
    for name in ("slide[1]", "slide1", "slide*", "slide2"):
        places.make_folder(folder / name)
        places.replace_bytes(folder / name / "x", name.encode())
        places.replace_bytes(folder / name / name, b"of the same name")
    places.delete(folder / "slide[1]")
    places.delete(folder / "slide*" / "x")
    places.delete(folder / "never there")
    assert places.names(folder) == ["slide*", "slide1", "slide2"]
    assert places.names(folder / "slide*") == ["slide*"]
    assert places.names(folder / "slide2") == ["slide2", "x"]
    assert places.exists(folder / "slide2")


def test_an_object_is_made_once_and_replaced_as_it_was_seen(folder: Location) -> None:
    if isinstance(folder, Path):
        pytest.skip("of object stores")
    path = folder / ".lease"
    assert conditions.seen(path) is None
    assert conditions.create_bytes(path, b"mine")
    assert not conditions.create_bytes(path, b"yours")
    before = conditions.seen(path)
    assert before is not None
    assert before.data == b"mine"
    assert conditions.replace_seen(path, before, b"mine still")
    assert not conditions.replace_seen(path, before, b"yours")
    assert places.read_bytes(path) == b"mine still"
    after = conditions.seen(path)
    places.delete_object(path)
    places.delete_object(path)
    assert after is not None
    assert not conditions.replace_seen(path, after, b"of a dead owner")


def test_a_read_of_s3_is_one_request(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = to_location(bucket) / "chunk"
    places.replace_bytes(path, b"x" * 1000)
    client = type(places.filesystem("s3"))
    asked: list[str] = []
    ask = client._call_s3

    async def noted(self: object, method: str, *args: object, **kwargs: object) -> object:
        asked.append(method)
        return await ask(self, method, *args, **kwargs)

    monkeypatch.setattr(client, "_call_s3", noted)
    assert places.read_bytes(path) == b"x" * 1000
    with pytest.raises(FileNotFoundError):
        places.read_bytes(path.with_name("background"))
    assert asked == ["get_object", "get_object"]


def test_errors_of_a_store_name_place_and_cure() -> None:
    url = Url("s3", "bucket/x")
    for error, words in (
        (PermissionError("Forbidden"), "credentials come from the environment"),
        (ConnectionRefusedError("refused"), "AWS_ENDPOINT_URL"),
        (FileNotFoundError("The specified bucket does not exist"), "no such bucket"),
        (OSError("Storage backend has reached its minimum free drive threshold"), "no space left"),
        (OSError("slow\ndown"), "slow down; what is finished is kept"),
    ):
        with pytest.raises(StoreError, match=words) as caught, storage_errors(url):
            raise error
        assert "s3://bucket/x" in str(caught.value)
    with pytest.raises(ValueError, match="ours"), storage_errors(url):
        raise ValueError("ours")


def test_a_result_folder_at_a_url_of_this_machine(tmp_path: Path) -> None:
    assert RunConfig().ngff == "0.4"
    assert to_location(f"file://{tmp_path}") / "x" == tmp_path / "x"


def test_a_folder_that_a_listing_has_itself_is_not_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As s3fs lists it, where its first object is written between two of its requests."""
    store = SimpleNamespace(find=lambda key: [key, f"{key}/a", f"{key}/b/c"])
    monkeypatch.setattr(places, "filesystem", lambda protocol: store)
    assert list(places.parts_below(Url("s3", "bucket/folder"))) == [("a",), ("b", "c")]
