import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from data_files import public_data

from fedmodels.data.catalogue import CATALOGUE, DataSet, RemoteFile
from fedmodels.data.fetch import by_hand, fetch, fetch_files
from fedmodels.data.flamby import write_split
from fedmodels.errors import DataError, UsageError

CONTENT = bytes(range(256)) * 1000


class _Handler(BaseHTTPRequestHandler):
    """Serves CONTENT; the path says how: /good, /norange, /wrong, /cut (stops half way), anything else is absent."""

    def do_GET(self):
        kind, start = self.path[1:], 0
        self.server.ranges.append(self.headers.get("Range"))
        if kind not in {"good", "norange", "wrong", "cut"}:
            self.send_error(404)
            return
        if kind != "norange" and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:] if kind != "wrong" else b"x" * len(CONTENT[start:])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if kind == "cut" else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.ranges = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _bring(server, kind, folder, seen=None, algorithm="sha256"):
    url = f"http://127.0.0.1:{server.server_port}/{kind}"
    file = RemoteFile("a.bin", url, algorithm, hashlib.new(algorithm, CONTENT).hexdigest())
    progress = (lambda *step: seen.append(step)) if seen is not None else (lambda *_: None)
    return fetch_files(DataSet("test", (file,), "CC0", "nobody"), folder, progress)


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_download_is_checked_renamed_and_not_repeated(server, tmp_path, algorithm):
    seen = []
    (path,) = _bring(server, "good", tmp_path, seen, algorithm)
    assert path.read_bytes() == CONTENT
    assert seen[-1] == ("a.bin", len(CONTENT), len(CONTENT))
    _bring(server, "good", tmp_path, algorithm=algorithm)
    assert len(server.ranges) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    with pytest.raises(DataError, match="the download stopped"):
        _bring(server, "cut", tmp_path)
    half = (tmp_path / "a.bin.part").stat().st_size
    assert half == len(CONTENT) // 2
    assert not (tmp_path / "a.bin").exists()
    (path,) = _bring(server, "good", tmp_path)
    assert server.ranges == [None, f"bytes={half}-"]
    assert path.read_bytes() == CONTENT


def test_a_server_that_cannot_resume_is_read_from_the_start(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:100])
    (path,) = _bring(server, "norange", tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_part_that_is_already_whole_only_needs_its_name(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert _bring(server, "good", tmp_path)[0].read_bytes() == CONTENT


def test_wrong_content_never_gets_the_name_and_the_message_says_how_to_bring_the_file_by_hand(server, tmp_path):
    with pytest.raises(DataError, match="is not the original") as caught:
        _bring(server, "wrong", tmp_path)
    assert list(tmp_path.iterdir()) == []
    for part in ("/wrong", str(tmp_path / "a.bin"), hashlib.sha256(CONTENT).hexdigest(), "SHA256"):
        assert part in str(caught.value)


def test_a_file_that_is_there_but_not_the_original_is_kept_and_refused(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match="is not the original"):
        _bring(server, "good", tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"mine"
    assert server.ranges == []


def test_no_network_and_no_such_file_are_told_with_the_way_by_hand(server, tmp_path):
    with pytest.raises(DataError, match="Not Found") as caught:
        _bring(server, "absent", tmp_path)
    assert "download http://127.0.0.1" in caught.value.fix
    unused = RemoteFile("a.bin", "http://127.0.0.1:1/a.bin", "sha256", "00")
    with pytest.raises(DataError, match="the download stopped"):
        fetch_files(DataSet("test", (unused,), "CC0", "nobody"), tmp_path, lambda *_: None)


def test_an_unknown_data_set_is_refused_with_the_known_names(tmp_path):
    with pytest.raises(UsageError, match="physionet2012"):
        fetch("mnist", tmp_path, lambda *_: None)
    assert list(tmp_path.iterdir()) == []


def test_the_catalogue_pins_every_file_with_a_checksum_of_the_right_length_over_https():
    for file in (file for entry in CATALOGUE for file in entry.files):
        assert file.url.startswith("https://")
        assert len(file.checksum) == {"sha256": 64, "md5": 32}[file.algorithm]
        advice = by_hand(file, Path("data"))
        assert all(part in advice for part in (file.url, file.checksum, f"data/{file.name}"))


@pytest.mark.parametrize(
    ("name", "file"),
    [(entry.name, file) for entry in CATALOGUE for file in entry.files if entry.name == "heart_disease"]
    + [("physionet2012", CATALOGUE[1].files[1])],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_local_originals_have_the_pinned_checksum(name, file):
    path = public_data(name) / file.name
    assert hashlib.sha256(path.read_bytes()).hexdigest() == file.checksum


def test_flambys_split_is_computed_as_published(tmp_path):
    folder = public_data("heart_disease")
    for path in folder.glob("processed.*.data"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    made = write_split(tmp_path).read_text().splitlines()[1:]
    published = (folder / "flamby_split.csv").read_text().splitlines()[1:]
    wanted = [line.split(",") for line in published]
    assert sorted(made) == sorted(f"{site},{row},{word}" for site, _, row, word, _ in wanted)
