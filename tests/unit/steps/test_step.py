"""The frame around every step: fingerprints, reuse, requests, results that travel."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops_provider.exceptions import IntegrityError, MissingLibraryError, RequestError
from mlops_provider.steps import step as steps
from mlops_provider.steps.records import DataWork
from mlops_provider.steps.step import Job, Outcome, Request, artifacts, find, packed, run, unpacked
from mlops_provider.storage import Artifact, Storage
from tests.support.tiny import DAYS, World, outcome

DAY = DAYS[0]


def built(job: Job, work: DataWork) -> Outcome:
    return outcome(job, "build_features", work=work)


def request(world: World, **changes: Any) -> Request:
    job = world.job()
    arguments = {"work": world.work(DAY, job).model_dump(mode="json")}
    return Request(**{
        "step": "build_features",
        "code": job.model.ref,
        "deployment": job.deployment,
        "arguments": arguments,
        **changes,
    })


def test_an_equal_fingerprint_returns_the_stored_result(delivered: World) -> None:
    first, second = (built(delivered.job(), delivered.work(DAY)) for _ in range(2))
    assert (first.reused, second.reused) == (False, True)
    assert second.result == first.result
    assert second.fingerprint == first.fingerprint


def test_force_computes_again(delivered: World) -> None:
    first = built(delivered.job(), delivered.work(DAY))
    again = built(delivered.job(force=True), delivered.work(DAY))
    assert not again.reused
    assert again.result == first.result


def test_another_argument_computes(delivered: World) -> None:
    built(delivered.job(), delivered.work(DAY))
    assert not built(delivered.job(), delivered.work(DAYS[1])).reused


def test_replaced_data_computes(delivered: World) -> None:
    built(delivered.job(), delivered.work(DAY))
    delivered.rewrite(DAY, "inputs", lambda frame: frame.assign(a=frame["a"] + 1))
    assert not built(delivered.job(), delivered.work(DAY)).reused


@pytest.mark.parametrize(
    ("change", "reused"),
    [
        ({"data": {"lead": "2h"}}, False),
        ({"features": {"columns": ["a", "b", "c"]}}, False),
        ({"gates": {"min_gain": 0.5}}, True),
        ({"monitoring": {"drift": {"threshold": 0.9}}}, True),
        ({"training": {"rounds": 7}}, True),
        ({"description": "another"}, True),
    ],
)
def test_only_the_sections_that_shape_the_result_compute_again(
    delivered: World, change: dict[str, Any], reused: bool
) -> None:
    built(delivered.job(), delivered.work(DAY))
    assert built(delivered.configure(**change), delivered.work(DAY)).reused is reused


def test_changed_code_computes(delivered: World) -> None:
    built(delivered.job(), delivered.work(DAY))
    with (delivered.model / "features.py").open("a") as file:
        file.write("\nCHANGED = True\n")
    assert not built(delivered.job(), delivered.work(DAY)).reused


def test_a_changed_provider_computes(delivered: World, monkeypatch: pytest.MonkeyPatch) -> None:
    built(delivered.job(), delivered.work(DAY))
    monkeypatch.setattr(steps, "source_version", lambda: "0.1.0+another")
    assert not built(delivered.job(), delivered.work(DAY)).reused


def test_the_source_of_a_room_is_part_of_its_version() -> None:
    assert steps.source_version("data") != steps.source_version("training")


def test_another_version_of_a_library_computes(delivered: World, monkeypatch: pytest.MonkeyPatch) -> None:
    built(delivered.job(), delivered.work(DAY))
    monkeypatch.setattr(steps, "libraries", lambda: {"pandas": "another"})
    assert not built(delivered.job(), delivered.work(DAY)).reused


def test_a_table_cut_short_computes_again(delivered: World) -> None:
    first = built(delivered.job(), delivered.work(DAY))
    table = Path(first.result["table"]["uri"])
    whole = table.read_bytes()
    table.write_bytes(whole[:-1])
    assert not built(delivered.job(), delivered.work(DAY)).reused
    assert table.read_bytes() == whole


def test_a_deleted_artifact_computes_again(delivered: World) -> None:
    first = built(delivered.job(), delivered.work(DAY))
    table = Path(first.result["table"]["uri"])
    table.unlink()
    assert not built(delivered.job(), delivered.work(DAY)).reused
    assert table.exists()


def test_steps_that_decide_are_never_reused(delivered: World) -> None:
    for _ in range(2):
        assert not outcome(delivered.job(), "refuse_data", work=delivered.work(DAY), reason="test").reused


def test_a_missing_library_names_its_extra(delivered: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "great_expectations"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "great_expectations", None)
    assert outcome(delivered.job(), "validate", work=delivered.work(DAY), suite="raw").result[
        "verdict"
    ]  # all of it streams
    of_type = {"type": "expect_column_values_to_be_of_type", "kwargs": {"column": "a", "type_": "float64"}}
    suite = {"name": "tiny_raw", "expectations": [of_type]}
    (delivered.model / "expectations" / "raw.json").write_text(json.dumps(suite))
    with pytest.raises(MissingLibraryError, match=r"validate needs .*airflow-provider-mlops\[great-expectations\]"):
        outcome(delivered.job(), "validate", work=delivered.work(DAY), suite="raw")


def test_a_module_that_the_model_lacks_is_no_missing_extra(delivered: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'prophet'", name="prophet")

    found = find("build_features")
    monkeypatch.setattr("mlops_provider.steps.data.features.load", lacking)
    with pytest.raises(ModuleNotFoundError, match="prophet"):
        found.run(delivered.job(), found.arguments(work=delivered.work(DAY)))


@pytest.mark.parametrize("name", sorted(steps.STEPS))
def test_every_step_is_found_under_its_name(name: str) -> None:
    assert find(name).name == name


def test_an_unknown_step_is_refused() -> None:
    with pytest.raises(RequestError, match="no step 'os.system'; the steps are validate"):
        find("os.system")


def test_a_request_does_what_a_call_does(delivered: World) -> None:
    done = run(request(delivered))
    assert done.result == built(delivered.job(), delivered.work(DAY)).result
    assert run(request(delivered, force=True)).reused is False


@pytest.mark.parametrize(
    ("arguments", "place"),
    [({}, "work"), ({"work": 7}, "work"), ({"work": {"partition": DAY}, "wrok": {}}, "wrok")],
)
def test_bad_arguments_are_refused_with_their_place(delivered: World, arguments: Any, place: str) -> None:
    with pytest.raises(RequestError, match=rf"(?s)arguments of build_features: .*{place}"):
        run(request(delivered, arguments=arguments))


def test_a_request_travels_as_json(delivered: World) -> None:
    asked = request(delivered)
    assert Request.model_validate_json(asked.model_dump_json()) == asked


@pytest.mark.parametrize(("size", "travels"), [(8 * 1024 - 9, True), (8 * 1024 - 7, False)])
def test_a_result_over_8_kib_travels_as_a_file(tmp_path: Path, size: int, travels: bool) -> None:
    result = {"text": "x" * (size - 2)}
    sent = packed(result, Storage(), str(tmp_path / "result.json"))
    assert (sent == result) is travels
    assert (tmp_path / "result.json").exists() is not travels
    assert unpacked({"a": [{"b": sent}]}, Storage()) == {"a": [{"b": result}]}


def test_a_replaced_result_is_found_out(tmp_path: Path) -> None:
    sent = packed({"text": "x" * 10_000}, Storage(), str(tmp_path / "result.json"))
    (tmp_path / "result.json").write_text('{"text": "forged"}')
    with pytest.raises(IntegrityError, match="result.json has changed"):
        unpacked(sent, Storage())


def test_every_artifact_of_a_result_is_seen(scored: World) -> None:
    version = scored.versions()[0]
    found = {artifact.uri for artifact in artifacts(version)}
    for part in ("/model.onnx", "/model.txt", "/reference/", "/lineage-"):
        assert any(part in uri for uri in found), part


@pytest.mark.parametrize("wrap", [lambda a: [a], lambda a: {"x": a}, lambda a: ({"x": [a]},)])
def test_artifacts_are_seen_in_collections(wrap: Callable[[Artifact], Any]) -> None:
    one = Artifact(uri="a", hash="b", size=1)
    assert list(artifacts(wrap(one))) == [one]


def test_the_code_of_another_version_makes_another_job(delivered: World) -> None:
    job = delivered.job()
    other = delivered.configure(description="another")
    assert job.with_code(job.model.ref) is job
    assert job.with_code(other.model.ref).config.description == "another"


def test_another_code_keeps_the_force(delivered: World) -> None:
    job = delivered.job(force=True)
    assert job.with_code(delivered.configure(description="another").model.ref).force
