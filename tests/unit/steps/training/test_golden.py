"""Golden cases: they are chosen where a package that scores otherwise would show, and replaying them shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import pytest

from mlops_provider.exceptions import IntegrityError
from mlops_provider.steps.records import Package
from mlops_provider.steps.release.gate import judge
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.training import golden as module
from mlops_provider.steps.training.golden import FILE, Golden, golden, replay_golden
from mlops_provider.steps.training.onnx_export import export
from mlops_provider.storage import Storage
from tests.support.tiny import World, candidate, train

Array = np.ndarray[Any, Any]
NAMES = ("a", "b", "c")


def sample() -> Array:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 3))
    rows[:, 2] = rng.integers(0, 4, 400)
    rows[::5, 1] = np.nan
    return rows


def model(rows: Array, rounds: int = 10, **params: Any) -> str:
    labels = (np.nan_to_num(rows[:, 0]) + np.nan_to_num(rows[:, 1]) + (rows[:, 2] == 2) > 0).astype(float)
    settings = {"objective": "binary", "num_leaves": 8, "min_data_in_leaf": 5, "num_threads": 1, "verbosity": -1}
    return str(lightgbm.train(settings | params, lightgbm.Dataset(rows, labels), rounds).model_to_string())


def chosen(text: str, rows: Array) -> Golden:
    return golden(text, rows, fingerprint="f", features=NAMES, cut=0.5, tolerance=1e-6)


def packaged(tmp_path: Path, cases: Golden, content: bytes, package: Package) -> Package:
    storage = Storage()
    files = {FILE: storage.write(str(tmp_path / FILE), cases.model_dump_json().encode())}
    return package.model_copy(update={"files": files, "onnx": storage.write(str(tmp_path / "model.onnx"), content)})


@pytest.fixture
def package(registered: World) -> Package:
    return registered.versions()[0].package


def test_they_hold_missing_values_of_every_feature_and_extremes() -> None:
    rows = chosen(model(sample()), sample()).rows
    assert np.isnan(rows).any(axis=0).all()
    assert (np.isnan(rows).all(axis=1)).any()
    for value in (0.0, 1e300, -1e300):
        assert (rows == value).all(axis=1).any()
    assert np.nanmin(sample(), axis=0)[0] in rows[:, 0]
    assert np.nanmax(sample(), axis=0)[0] in rows[:, 0]


def test_they_hold_every_value_of_a_feature_that_has_few() -> None:
    assert set(sample()[:, 2]) <= set(chosen(model(sample()), sample()).rows[:, 2])


def test_they_hold_both_sides_of_the_thresholds_that_gain_most() -> None:
    text = model(sample())
    cases, tops = chosen(text, sample()), sorted(module.splits(text), key=lambda s: -s.gain)[:10]
    for split in tops:
        column = cases.rows[:, split.feature]
        assert split.threshold in column
        assert np.nextafter(split.threshold, np.inf) in column


def test_they_hold_scores_on_both_sides_of_the_cut_and_the_ends() -> None:
    text = model(sample())
    cases, scores = chosen(text, sample()), np.asarray(lightgbm.Booster(model_str=text).predict(sample()))
    assert scores[scores < 0.5].max() in cases.scores
    assert scores[scores >= 0.5].min() in cases.scores
    assert {scores.min(), scores.max()} <= set(cases.scores)


def test_no_case_is_there_twice_and_the_same_model_has_the_same_cases() -> None:
    cases = chosen(model(sample()), sample())
    assert len({tuple(map(str, case.inputs)) for case in cases.cases}) == len(cases.cases)
    assert chosen(model(sample()), sample()) == cases


@pytest.mark.parametrize(
    "rows",
    [np.ones((5, 3)), np.full((5, 3), np.nan), np.full((5, 3), np.inf), sample()[:1]],
    ids=["constant", "missing", "infinite", "one row"],
)
def test_a_poor_sample_still_has_cases(rows: Array) -> None:
    cases = chosen(model(sample()), rows)
    assert len(cases.cases) >= 4
    assert not np.isinf(cases.rows).any()


def test_a_model_without_splits_still_has_cases() -> None:
    assert len(chosen(model(sample(), min_data_in_leaf=1000), sample()).cases) > 10


def test_the_package_scores_them_as_lightgbm_did(package: Package) -> None:
    verdict = replay_golden(package, Storage())
    assert verdict.passed
    assert [check.name for check in verdict.checks] == ["golden_scores", "golden_decisions"]


def test_another_model_is_noticed(tmp_path: Path, package: Package) -> None:
    other = export(model(sample(), learning_rate=0.5))
    verdict = replay_golden(packaged(tmp_path, chosen(model(sample()), sample()), other, package), Storage())
    assert [check.passed for check in verdict.checks] == [False, False]
    assert "instead of" in verdict.checks[0].detail


def test_a_threshold_that_is_off_by_its_last_bit_is_noticed(tmp_path: Path, package: Package) -> None:
    text = model(sample(), rounds=1, num_leaves=2)
    line = next(line for line in text.splitlines() if line.startswith("threshold="))
    for towards in (-np.inf, np.inf):
        moved = f"threshold={float(np.nextafter(float(line.split('=')[1]), towards))!r}"
        content = export(text.replace(line, moved))
        assert not replay_golden(packaged(tmp_path, chosen(text, sample()), content, package), Storage()).passed


def test_missing_values_that_go_the_other_way_are_noticed(tmp_path: Path, package: Package) -> None:
    text = model(sample())
    found = onnx.load_from_string(export(text))
    (tracks,) = [a for a in found.graph.node[0].attribute if a.name == "nodes_missing_value_tracks_true"]
    turned = [1 - value for value in tracks.ints]
    del tracks.ints[:]
    tracks.ints.extend(turned)
    content = found.SerializeToString()
    assert not replay_golden(packaged(tmp_path, chosen(text, sample()), content, package), Storage()).passed


def test_a_server_can_be_asked_instead(package: Package) -> None:
    score = Scorer.of(package, Storage()).score
    assert replay_golden(package, Storage(), score=score, where="a server").passed
    worse = replay_golden(package, Storage(), score=lambda rows: score(rows) + 1e-5, where="a server")
    assert worse.reason().startswith("golden_scores")
    assert worse.subject == "golden cases at a server"
    assert worse.checks[1].passed


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (lambda rows: np.zeros((len(rows), 2)), "error"),
        (lambda rows: np.zeros(1), "error"),
        (lambda rows: np.full(len(rows), np.nan), "fail"),
    ],
    ids=["two columns", "too few", "no numbers"],
)
def test_an_answer_that_is_none_is_no_pass(package: Package, answer: Any, outcome: str) -> None:
    assert replay_golden(package, Storage(), score=answer).outcome == outcome


def test_no_cases_is_an_error(package: Package, tmp_path: Path) -> None:
    assert replay_golden(package.model_copy(update={"files": {}}), Storage()).outcome == "error"
    none = chosen(model(sample()), sample()).model_copy(update={"cases": ()})
    given = packaged(tmp_path, none, export(model(sample())), package)
    assert replay_golden(given, Storage()).outcome == "error"


def test_damaged_cases_are_no_pass(package: Package) -> None:
    file = Path(package.files[FILE].uri)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(IntegrityError, match=r"golden\.json has changed"):
        replay_golden(package, Storage())


def test_a_file_without_cases_in_it_is_no_pass(package: Package) -> None:
    file = Storage().write(str(Path(package.onnx.uri).with_name("other.json")), b"{}")
    with pytest.raises(IntegrityError, match="holds no golden cases"):
        replay_golden(package.model_copy(update={"files": {FILE: file}}), Storage())


def test_the_gate_replays_them(registered: World) -> None:
    job, (version,) = registered.job(), registered.versions()
    assert {"golden_scores", "golden_decisions"} <= {c.name for c in judge(job, version).verdict.checks}
    other = train(registered, registered.configure(training={"params": {"learning_rate": 0.9}})).package
    package = version.package.model_copy(update={"files": {FILE: other.files[FILE]}})
    found = judge(job, version.model_copy(update={"package": package}))
    assert not found.promote
    assert "golden_scores" in found.reason


def test_they_are_made_of_what_the_tensor_takes(trained: World) -> None:
    package = candidate(trained)["package"]
    known = Golden.model_validate_json(Storage().fetch(package.files[FILE]))
    assert known.features == package.features
    assert known.rows.shape == (len(known.cases), len(package.features))
    assert len(Storage().fetch(package.files[FILE])) < 200_000
