"""Storage, ledger and tables on a real S3 server: the same promises as on local files."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi import HTTPException

from mlops_provider.arrivals import Lookout, Source
from mlops_provider.deployment import Deployment
from mlops_provider.exceptions import DataError, IntegrityError
from mlops_provider.ledger import Draft, Ledger, last
from mlops_provider.modelcode import pack, unpack
from mlops_provider.sections import Completeness, Validation
from mlops_provider.steps import plan, tables
from mlops_provider.steps.data.label_log import labels_as_of
from mlops_provider.steps.data.profile import ProfileArguments, profile
from mlops_provider.steps.scoring import online_files
from mlops_provider.steps.scoring.compaction import compact
from mlops_provider.steps.scoring.prediction_log import read, schema
from mlops_provider.steps.step import Job
from mlops_provider.storage import Storage
from tests.integration.servers import Options
from tests.support.tiny import DAYS, call, feed, write_model
from tests.support.workers import append_many, content, create_many, together


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
        assert len(storage.names(f"{root}/folder")) == number + 1
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


@pytest.mark.parametrize("name", ["{partition}/rows.parquet", "{partition}/"], ids=["file", "folder"])
def test_partitions_are_noticed_and_noticed_again_when_they_change(storage: Storage, root: str, name: str) -> None:
    lookout = Lookout(Source(uri=f"{root}/{name}", frequency="monthly"))
    assert lookout.look(storage) == {}
    storage.write(f"{root}/2024-01/rows.parquet", b"one")
    storage.write(f"{root}/2024-01/_SUCCESS", b"")
    storage.write(f"{root}/latest/rows.parquet", b"one")
    assert lookout.look(storage) == {}
    before = lookout.look(storage)
    assert list(before) == ["2024-01"]
    storage.write(f"{root}/2024-01/rows.parquet", b"two")
    assert lookout.look(storage) == {}
    assert lookout.look(storage)["2024-01"] != before["2024-01"]


def test_a_marker_is_noticed_where_it_belongs(storage: Storage, root: str) -> None:
    lookout = Lookout(Source(uri=f"{root}/{{partition}}/rows.parquet", when=Completeness(complete="marker")))
    storage.write(f"{root}/2024-01/rows.parquet", b"one")
    assert lookout.look(storage) == {}
    storage.write(f"{root}/2024-01/_SUCCESS", b"")
    assert list(lookout.look(storage)) == ["2024-01"]


def test_a_source_that_refuses_us_is_not_taken_for_an_empty_one(options: Options, root: str) -> None:
    wrong = Storage({"s3": options["s3"] | {"secret": "wrong"}})
    with pytest.raises(PermissionError):
        Lookout(Source(uri=f"{root}/{{partition}}/rows.parquet")).look(wrong)


def test_a_bucket_that_is_not_there_is_told(storage: Storage) -> None:
    with pytest.raises(DataError, match="s3://elsewhere/{partition}/rows.parquet: .* bucket does not exist"):
        Lookout(Source(uri="s3://elsewhere/{partition}/rows.parquet")).look(storage)


def test_a_partition_on_s3_is_held_against_an_accepted_one_and_its_report_is_served(
    job: Job, root: str, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work,) = plan.ci(job)
    table = call(job, "build_features", work=work).table
    file = profile(job, ProfileArguments(work=work, table=table)).file
    facts = {"identity": work.identity, "data": {"tag": "first"}, "profile": file.model_dump(mode="json")}
    job.ledger.append(Draft(kind="data", partition=DAYS[0], outcome="accepted", reason="", facts=facts), actor="test")
    for what in ("inputs", "labels"):
        feed.deliver(str(tmp_path / "data"), DAYS[1], what)
        job.storage.upload(
            tmp_path / "data" / "tiny" / DAYS[1] / f"{what}.parquet", f"{root}/data/tiny/{DAYS[1]}/{what}.parquet"
        )
    work = plan.State(job).work(DAYS[1])
    table = call(job, "build_features", work=work).table
    found = call(job, "compare_history", work=work, table=table)
    assert (found.verdict.outcome, found.against) == ("pass", DAYS[0])
    assert found.report.uri.startswith(f"{root}/artifacts/reports/tiny/validation-{DAYS[1]}-history-")
    assert _served(found.report.uri, f"{root}/artifacts", options, monkeypatch) == job.storage.fetch(found.report)
    with pytest.raises(HTTPException, match="404"):
        _served("s3://elsewhere/validation-gone.html", f"{root}/artifacts", options, monkeypatch)


def _served(uri: str, artifact_root: str, options: Options, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What the plugin reads with nothing but Airflow's configuration and connections."""
    from mlops_provider.operators.base import local_deployment
    from mlops_provider.plugin.reports import _read

    keys = options["s3"]
    extra = {"endpoint_url": keys["endpoint_url"], "region_name": "us-east-1"}
    connection = {"conn_type": "aws", "login": keys["key"], "password": keys["secret"], "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
    monkeypatch.setenv("AIRFLOW__MLOPS__ARTIFACT_ROOT", artifact_root)
    return _read(local_deployment(), "tiny", uri.rsplit("/", 1)[-1])


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


def test_a_dataset_on_s3_that_changed_after_it_was_validated_is_not_versioned(
    job: Job, root: str, tmp_path: Path
) -> None:
    """A file by its ETag, a folder by those of its files, as they are listed."""
    subprocess.run(["git", "init", "-q", "--bare", "--template=", str(tmp_path / "repository.git")], check=True)
    dvc = {"repository": str(tmp_path / "repository.git"), "remote": str(tmp_path / "dvc")}
    job = Job(pack(write_model(tmp_path, data={"dvc": dvc}), "", job.storage, f"{root}/artifacts"), job.deployment)
    content = job.storage.read(f"{root}/data/tiny/{DAYS[0]}/inputs.parquet")
    for part in ("one", "two"):
        job.storage.write(f"{root}/days/{part}.parquet", content)
    for dataset, files in ((f"{root}/days", 2), (f"{root}/days/two.parquet", 1)):
        found = call(job, "validate_dataset", dataset=dataset, suite="raw")
        assert call(job, "validate_dataset", dataset=found.dataset, suite="raw").dataset == found.dataset
        asked = {"name": "days", "partition": str(files), "validated": (found,)}
        job.storage.write(f"{root}/days/two.parquet", content)
        for given in (dataset, found.dataset):
            assert call(job, "snapshot_dataset", dataset=given, **asked).data.rows == files * feed.ROWS
        table = pq.read_table(pa.BufferReader(content)).slice(1)
        pq.write_table(table, sink := pa.BufferOutputStream())
        job.storage.write(f"{root}/days/two.parquet", sink.getvalue().to_pybytes())
        for given in (dataset, found.dataset):
            with pytest.raises(IntegrityError, match="has changed"):
                call(job, "snapshot_dataset", dataset=given, **asked)
        job.storage.write(f"{root}/days/two.parquet", content)


def test_posted_labels_lie_on_s3_and_are_read_as_of_a_clock(job: Job) -> None:
    key = f"{DAYS[0]}-00000"
    given = [{"id": key, "outcome": 1.0}, {"id": "nobody", "outcome": 1.0}]
    assert [call(job, "take_labels", rows=given).taken for _ in range(2)] == [1, 0]
    assert call(job, "take_labels", rows=[{"id": key, "outcome": -1.0}]).taken == 1
    (found,) = labels_as_of(job, DAYS[0]).to_dict("records")
    assert (found["label"], found["revision"]) == (-1.0, 2)


def test_online_predictions_are_merged_on_s3(job: Job) -> None:
    wanted, now = schema(job.config), dt.datetime(2024, 1, 1, 8, tzinfo=dt.UTC)
    row = {"id": "a", "at": now, "score": 0.5, "label": True, "version": 1, "scored_at": now, "variant": "b"}
    for key in ("a", "b"):
        table = pa.Table.from_pylist([{**row, "id": key}], schema=wanted)
        tables.create(job.storage, online_files.folder(job, DAYS[0]), table)
    assert compact(job, DAYS[0]).merged == 2
    assert compact(job, DAYS[0], grace=dt.timedelta(0)).removed == 2
    assert len(online_files.live(job, DAYS[0])) == 1
    (batch,) = read(job, [DAYS[0]])
    assert sorted(batch.column("id").to_pylist()) == ["a", "b"]
