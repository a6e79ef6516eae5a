"""Storage, ledger and tables on a real S3 server: the same promises as on local files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlops_provider.deployment import Deployment
from mlops_provider.exceptions import DataError, IntegrityError
from mlops_provider.ledger import Draft, Ledger, last
from mlops_provider.modelcode import pack, unpack
from mlops_provider.sections import Validation
from mlops_provider.steps import plan, tables
from mlops_provider.steps.step import Job
from mlops_provider.storage import Storage
from tests.support.tiny import DAYS, call, feed, write_model
from tests.support.workers import append_many, content, create_many, together

Options = dict[str, dict[str, Any]]
PORTS = (
    *(f"-{server}.port{kind}" for server in ("master", "volume", "filer", "s3", "admin") for kind in ("", ".grpc")),
    "-s3.port.iceberg",
    "-s3.port.lance",
)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Options]:
    """SeaweedFS with a bucket `mlops`, on loopback alone; fsspec's options to reach it."""
    folder, ports = tmp_path_factory.mktemp("s3"), dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    command = [
        str(Path(sys.executable).with_name("weed")),
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        *(f"{name}={port}" for name, port in ports.items()),
    ]
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "secret", "S3_BUCKET": "mlops"}
    log = folder / "log.txt"
    with log.open("w") as out:
        server = subprocess.Popen(command, env=os.environ | keys, stdout=out, stderr=out, cwd=folder)
    found = {"key": "test", "secret": "secret", "endpoint_url": f"http://127.0.0.1:{ports['-s3.port']}"}
    try:
        _wait(server, {"s3": found}, log)
        yield {"s3": found}
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server: subprocess.Popen[bytes], options: Options, log: Path) -> None:
    problem: Exception | None = None
    for _ in range(120):
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            Storage(options).write("s3://mlops/ready", b"ready")
            return
        except Exception as error:
            problem = error
            time.sleep(0.25)
    raise AssertionError(f"{problem}\n{log.read_text()[-3000:]}")


@pytest.fixture
def storage(options: Options) -> Storage:
    return Storage(options)


@pytest.fixture
def root(request: pytest.FixtureRequest) -> str:
    """A folder of the test's own."""
    return f"s3://mlops/{request.node.name.replace('[', '-').strip(']')}"


def test_a_file_is_created_once(storage: Storage, root: str) -> None:
    assert [storage.create(f"{root}/file", text) for text in (b"first", b"second")] == [True, False]
    assert storage.read(f"{root}/file") == b"first"


def test_a_large_file_is_created_once(storage: Storage, root: str) -> None:
    large = [bytes([n]) * (12 << 20) for n in (1, 2)]
    assert [storage.create(f"{root}/file", text) for text in large] == [True, False]
    assert storage.read(f"{root}/file") == large[0]


def test_one_of_many_threads_creates_a_file(storage: Storage, root: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(3):
            uri = f"{root}/{number}"
            won = list(pool.map(lambda writer, uri=uri: storage.create(uri, content(writer)), range(8)))
            assert won.count(True) == 1
            assert storage.read(uri) == content(won.index(True))


def test_one_of_many_processes_creates_a_file(options: Options, storage: Storage, root: str) -> None:
    won = together(4, create_many, options, root, 15)
    for number in range(15):
        winners = [writer for writer in range(4) if won[writer][number]]
        assert len(winners) == 1
        assert storage.read(f"{root}/{number}.bin") == content(winners[0])


def test_eight_processes_append_to_a_ledger_at_once(options: Options, storage: Storage, root: str) -> None:
    numbers = together(8, append_many, options, root, 3)
    records = Ledger(storage, root, "tiny").records()
    assert sorted(number for found in numbers for number in found) == list(range(1, 25))
    assert {r.partition for r in records} == {f"{writer}-{n}" for writer in range(8) for n in range(3)}


@pytest.fixture
def three(storage: Storage, root: str) -> Ledger:
    ledger = Ledger(storage, root, "tiny")
    for number in range(3):
        ledger.append(Draft(kind="data", partition=str(number), outcome="accepted", reason="test"), actor="test")
    return Ledger(storage, root, "tiny")


def test_the_guard_is_asked_again_after_a_lost_race(
    three: Ledger, storage: Storage, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = Draft(kind="data", partition="mine", outcome="accepted", reason="test")
    create = Storage.create

    def late(self: Storage, uri: str, text: bytes) -> bool:
        monkeypatch.setattr(Storage, "create", create)
        Ledger(storage, root, "tiny").append(draft, actor="rival")
        return create(self, uri, text)

    monkeypatch.setattr(Storage, "create", late)
    record, created = three.append(draft, actor="test", guard=lambda found: last(found, "data", partition="mine"))
    assert (record.actor, created) == ("rival", False)


def test_a_missing_record_is_found_out(three: Ledger, storage: Storage, root: str) -> None:
    fs, path = storage.filesystem(f"{root}/ledger/tiny/00000002.json")
    fs.rm_file(path)
    with pytest.raises(IntegrityError, match="record 2 is missing"):
        three.records()


def test_a_changed_record_is_found_out(three: Ledger, storage: Storage, root: str) -> None:
    uri = f"{root}/ledger/tiny/00000002.json"
    storage.write(uri, storage.read(uri).replace(b'"test"', b'"best"'))
    with pytest.raises(IntegrityError, match="tampered"):
        three.records()


def test_what_others_write_is_seen_at_once(options: Options, storage: Storage, root: str) -> None:
    other = Storage(options)
    for number in range(3):
        other.write(f"{root}/folder/{number}", b"")
        assert len(storage.names(f"{root}/folder")) == number + 1
        assert len(storage.glob(f"{root}/folder/*")) == number + 1
        assert storage.exists(f"{root}/folder/{number}")


def test_a_replaced_object_is_found_out_by_its_etag(storage: Storage, root: str) -> None:
    storage.write(f"{root}/file", b"content")
    described = storage.describe(f"{root}/file")
    assert described.hash.startswith("etag:")
    assert (described.size, storage.fetch(described)) == (7, b"content")
    storage.write(f"{root}/file", b"CONTENT")
    with pytest.raises(IntegrityError, match="has changed"):
        storage.fetch(described)


def test_a_replaced_object_is_found_out_by_its_hash(storage: Storage, root: str) -> None:
    written = storage.write(f"{root}/file", b"content")
    assert storage.fetch(written) == b"content"
    storage.write(f"{root}/file", b"CONTENT")
    with pytest.raises(IntegrityError, match="has changed"):
        storage.fetch(written)


def test_an_object_replaced_by_the_same_content_is_the_same(storage: Storage, root: str) -> None:
    storage.write(f"{root}/file", b"content")
    described = storage.describe(f"{root}/file")
    storage.write(f"{root}/file", b"content")
    assert storage.fetch(described) == b"content"


@pytest.mark.parametrize("method", ["read", "describe"])
def test_a_missing_object_is_named(storage: Storage, root: str, method: str) -> None:
    with pytest.raises(DataError, match=rf"{root}/nowhere does not exist"):
        getattr(storage, method)(f"{root}/nowhere")


def test_an_uploaded_file_is_what_was_uploaded(storage: Storage, root: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    found = storage.upload(tmp_path / "file", f"{root}/file", rows=3)
    assert (storage.fetch(found), found.rows) == (b"content", 3)


def test_a_table_goes_to_s3_and_back(storage: Storage, root: str) -> None:
    frame = feed.inputs(DAYS[0])
    written = tables.write_frame(storage, f"{root}/table.parquet", frame)
    assert written.rows == len(frame)
    pd.testing.assert_frame_equal(tables.read(storage, written).to_pandas(), frame)
    assert tables.read(storage, written, ["id"]).column_names == ["id"]
    with pytest.raises(DataError, match=r"\.parquet lacks the column 'absent'"):
        tables.read(storage, written, ["absent"])


@pytest.fixture
def job(options: Options, root: str, tmp_path: Path) -> Job:
    """The tiny model with its data and everything else on S3, and no secrets in the environment."""
    place = Deployment(artifact_root=f"{root}/artifacts", data_root=f"{root}/data", storage_options=options)
    for what in ("inputs", "labels"):
        feed.deliver(str(tmp_path / "data"), DAYS[0], what)
    for file in (tmp_path / "data").rglob("*.parquet"):
        place.storage.upload(file, f"{root}/data/{file.relative_to(tmp_path / 'data')}")
    return Job(pack(write_model(tmp_path), "", place.storage, place.artifact_root), place)


def test_code_travels_by_s3(job: Job) -> None:
    assert unpack(job.model.ref, job.storage).code_hash == job.model.code_hash
    job.storage.write(job.model.ref.uri, b"forged")
    with pytest.raises(IntegrityError, match="damaged or replaced"):
        unpack(job.model.ref, job.storage)


def test_deliveries_on_s3_are_found_and_become_features_on_s3(job: Job, root: str) -> None:
    (work,) = plan.ci(job)
    assert work.inputs is not None
    assert (work.partition, work.problem) == (DAYS[0], "")
    assert work.inputs.uri == f"{root}/data/tiny/{DAYS[0]}/inputs.parquet"
    assert call(job, "validate", work=work, suite="raw").verdict.passed
    built = call(job, "build_features", work=work)
    assert built.table.uri.startswith(f"{root}/artifacts/features/tiny/{DAYS[0]}/")
    frame = tables.read(job.storage, built.table).to_pandas()
    assert (len(frame), frame["label"].notna().sum()) == (feed.ROWS, built.labelled)


def test_inputs_replaced_on_s3_after_the_plan_are_not_used(job: Job) -> None:
    (work,) = plan.ci(job)
    assert work.inputs is not None
    job.storage.write(work.inputs.uri, b"replaced")
    with pytest.raises(IntegrityError, match=r"inputs\.parquet has changed"):
        call(job, "build_features", work=work)


def test_a_refusal_on_s3_is_recorded_once(job: Job) -> None:
    (work,) = plan.ci(job)
    for _ in range(2):
        call(job, "refuse_data", work=work, reason="test")
    assert [r.outcome for r in job.ledger.records()] == ["refused"]
    assert plan.ci(job) == []


def test_a_folder_on_s3_is_one_dataset_and_quarantine_lies_on_s3(job: Job, root: str) -> None:
    for part in ("day=1", "day=2"):
        source = f"{root}/data/tiny/{DAYS[0]}/inputs.parquet"
        job.storage.write(f"{root}/folder/{part}/part.parquet", job.storage.read(source))
    rows = {"type": "expect_table_row_count_to_equal", "kwargs": {"value": 2 * feed.ROWS}}
    unique = {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}, "severity": "warning"}
    job.storage.write_json(f"{root}/suite.json", {"name": "own", "expectations": [rows, unique]})
    found = call(job, "validate_dataset", dataset=f"{root}/folder", suite=f"{root}/suite.json")
    assert found.verdict.outcome == "warn"
    assert found.verdict.checks[1].unexpected.count == 2 * feed.ROWS
    below = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "a", "max_value": 2}}
    job.storage.write_json(f"{root}/suite.json", {"name": "own", "expectations": [below]})
    settings = job.config.data.model_copy(update={"validation": Validation(mode="quarantine")})
    job.model.config = job.config.model_copy(update={"data": settings})
    found = call(job, "validate_dataset", dataset=f"{root}/folder", suite=f"{root}/suite.json", partition="both")
    assert found.verdict.passed
    assert found.quarantined.uri.startswith(f"{root}/artifacts/quarantine/tiny/both/")
    assert (tables.read(job.storage, found.accepted).column("a").to_numpy() <= 2).all()
