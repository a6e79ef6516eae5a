"""Whole loops of models that predict something else than yes or no: each stage does what it does for a binary one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_provider import api, config
from mlops_provider.exceptions import ConfigError, DataError
from mlops_provider.steps.data.rows import learnable
from mlops_provider.steps.records import Evaluation, FeatureVersion, Measured
from mlops_provider.steps.scoring.online import append
from mlops_provider.steps.scoring.prediction_log import read, schema
from mlops_provider.steps.scoring.predictions import manifest
from mlops_provider.steps.scoring.scorer import Scorer
from mlops_provider.steps.training import train as train_step
from mlops_provider.steps.training.edge import EdgeReport
from mlops_provider.steps.training.findings import Findings
from mlops_provider.steps.training.golden import replay_golden
from mlops_provider.steps.training.objectives import Array
from mlops_provider.steps.training.objectives import objective as kind_of
from tests.support.tiny import DAYS, World, call, train, write_model

CLASSES = ("low", "middle", "high")
LABEL_FREE = {
    "expectations": [{"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}, "severity": "critical"}]
}


def limits(**thresholds: Any) -> dict[str, Any]:
    asked = {"auc": None, **thresholds}
    return {"gates": {"thresholds": asked, "min_gain": 0.0}, "monitoring": {"quality": {"thresholds": asked}}}


CHANGES: dict[str, dict[str, Any]] = {
    "multiclass": {
        "data": {"label": {"positive_above": None, "column": "class", "classes": list(CLASSES)}},
        **limits(log_loss={"max": 1.0}, accuracy={"min": 0.5}),
    },
    "regression": {"data": {"label": {"positive_above": None}}, **limits(rmse={"max": 2.5}, r2={"min": 0.1})},
    "lambdarank": {
        "data": {
            "group": "query",
            "columns": ["id", "at", "site", "a", "b", "c", "query"],
            "label": {"positive_above": None, "column": "relevance"},
        },
        **limits(**{"ndcg_at_10": {"min": 0.5}}),
    },
}


def changes(objective: str, **more: Any) -> dict[str, Any]:
    found = {**CHANGES[objective], "package": {"edge": {"keep": 0.5}}}
    for section, content in more.items():
        found[section] = {**found.get(section, {}), **content}
    found["training"] = {"objective": objective, **more.get("training", {})}
    return found


def queried(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(query=rows["at"].dt.strftime("%H:%M").str[:4])  # ten minutes are a query


def told(labels: pd.DataFrame) -> pd.DataFrame:
    edges = [-np.inf, -1, 1, np.inf]
    return labels.assign(**{
        "class": pd.cut(labels["outcome"], edges, labels=list(CLASSES)).astype("object"),
        "relevance": pd.cut(labels["outcome"], [-np.inf, 0, 1, 2, np.inf], labels=False),
    })


def made(root: Path, objective: str, **more: Any) -> World:
    """A world whose model predicts this, with its first three days delivered."""
    world = World(root)
    world.create()
    configure(world, objective, **more)
    deliver(world, *DAYS[:3])
    return world


def configure(world: World, objective: str, **more: Any) -> None:
    write_model(world.include, **changes(objective, **more))
    (world.model / "expectations" / "features.json").write_text(json.dumps({"name": "f", **LABEL_FREE}))


def deliver(world: World, *days: str, what: tuple[str, ...] = ("inputs", "labels")) -> None:
    world.deliver(*days, what=what)
    for day in days:
        for kind in what:
            world.rewrite(day, kind, queried if kind == "inputs" else told)


@pytest.fixture(scope="module", params=list(CHANGES))
def objective(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lived(objective: str, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A first champion, a day that it scored, and a challenger."""
    world = made(tmp_path_factory.mktemp(objective), objective)
    world.loops().drain()
    deliver(world, DAYS[3], what=("inputs",))
    world.loops().score()
    deliver(world, DAYS[3], what=("labels",))
    world.loops().drain()
    return world


def test_candidates_are_promoted_by_the_metrics_of_their_objective(lived: World, objective: str) -> None:
    outcomes = [(r.kind, r.version, r.outcome) for r in lived.records("promotion", "refusal")]
    assert outcomes[0] == ("promotion", 1, "promoted")
    assert len(outcomes) == 2
    first = Evaluation.model_validate(lived.records("candidate")[0].facts["evaluation"])
    assert set(first.candidate) == set(config.load(lived.model).evaluation.metrics)
    assert first.metric == {"multiclass": "log_loss", "regression": "rmse", "lambdarank": "ndcg_at_10"}[objective]
    second = Evaluation.model_validate(lived.records("candidate")[1].facts["evaluation"])
    assert second.interval is not None
    assert second.interval.low <= second.interval.gain <= second.interval.high


def test_a_simple_model_is_beaten_and_told(lived: World, objective: str) -> None:
    evaluation = Evaluation.model_validate(lived.records("candidate")[1].facts["evaluation"])
    names = {
        "multiclass": {"prevalence", "logistic"},
        "regression": {"mean", "ridge"},
        "lambdarank": {"chance", "ridge"},
    }
    found = {c.subject: c for c in evaluation.verdict.checks if c.name == "simpler_model_is_not_better"}
    assert set(found) == names[objective]
    plain = found[{"multiclass": "prevalence", "regression": "mean", "lambdarank": "chance"}[objective]]
    assert plain.passed, plain.detail


def test_the_package_scores_as_lightgbm_does_on_every_side(lived: World, objective: str) -> None:
    version, storage = lived.versions()[-1], lived.deployment.storage
    booster = lightgbm.Booster(model_str=storage.fetch(version.package.booster).decode())
    rows = np.random.default_rng(0).normal(size=(500, 4)) * [1, 1, 1, 20]
    rows[::7, 1] = np.nan
    found, expected = Scorer.of(version.package, storage).score(rows), booster.predict(rows)
    assert found.shape == expected.shape == ((500, 3) if objective == "multiclass" else (500,))
    assert (np.abs(found - expected) <= 1e-6 * np.maximum(1, np.abs(expected))).all()
    assert [check.state for check in version.package.parity.checks] == ["pass", "pass"]
    assert replay_golden(version.package, storage).passed
    assert version.package.classes == (CLASSES if objective == "multiclass" else ())
    assert version.package.cut is None


def test_golden_cases_notice_other_trees(lived: World) -> None:
    first, last = lived.versions()[0], lived.versions()[-1]
    mixed = first.package.model_copy(update={"onnx": last.package.onnx})
    assert not replay_golden(mixed, lived.deployment.storage).passed


def test_predictions_say_what_was_decided(lived: World, objective: str) -> None:
    found = manifest(lived.job(), DAYS[3])
    assert found is not None
    table = pq.read_table(found.table.uri).to_pandas()
    assert found.positives is None
    assert found.mean_score == pytest.approx(table["score"].mean())
    if objective == "multiclass":
        scores = np.stack(table["scores"].to_numpy())
        assert np.allclose(scores.sum(axis=1), 1)
        assert (table["score"] == scores.max(axis=1)).all()
        assert (table["label"] == np.array(CLASSES)[scores.argmax(axis=1)]).all()
    elif objective == "lambdarank":
        best = table.loc[table.groupby("group")["score"].idxmax()]
        assert (best["rank"] == 1).all()
        assert (table.groupby("group")["rank"].max() == table.groupby("group").size()).all()
    else:
        assert not {"label", "rank", "scores"} & set(table.columns)


def test_rows_for_review_are_drawn_for_the_reasons_that_the_objective_has(lived: World, objective: str) -> None:
    job = lived.job()
    found = manifest(job, DAYS[3])
    assert found is not None
    version = next(version for version in lived.versions() if version.version == found.version)
    labels = job.storage.describe(str(lived.file(DAYS[3], "labels")))
    drawn = call(job, "sample_for_review", predictions=found, version=version, labels=labels, rows=12)
    has = {name for name, count in drawn.candidates.items() if count}
    expected = {"multiclass": {"contradicting", "uncertain"}, "regression": {"contradicting"}, "lambdarank": set()}
    assert has - {"far"} == expected[objective]
    frame = pq.read_table(drawn.table.uri).to_pandas().query("reason == 'contradicting'")
    if objective == "multiclass":
        assert (frame["label"] != np.array(CLASSES)[frame["label_known"].astype(int)]).all()
    if objective == "regression":
        assert (frame["score"] - frame["label_known"]).abs().is_monotonic_decreasing


def test_what_is_logged_in_batch_may_be_logged_online(lived: World, objective: str) -> None:
    job = lived.job()
    made = pa.Table.from_batches(read(job, [DAYS[3]]))
    assert made.schema == schema(job.config)
    table = (
        made.slice(0, 50).drop_columns(["model", "source", "variant"]).append_column("variant", pa.array(["b"] * 50))
    )
    assert append(job, table, source="api").taken == 50
    both = pa.Table.from_batches(read(job, [DAYS[3]]))
    assert both.slice(len(made)).drop_columns(["source", "variant"]) == made.slice(0, 50).drop_columns([
        "source",
        "variant",
    ])
    wrong = {
        "multiclass": ("scores", pa.array([[2.0, 0.0, -1.0]] * 50)),
        "regression": ("score", pa.array([float("inf")] * 50)),
        "lambdarank": ("rank", pa.array([0] * 50)),
    }[objective]
    odd = table.set_column(table.column_names.index(wrong[0]), *wrong)
    assert append(job, odd, source="api").taken == 0


def test_quality_is_measured_on_what_was_predicted(lived: World) -> None:
    decided = next(r for r in lived.records("retrain") if r.partition == DAYS[3])
    measured = Measured.model_validate(decided.facts["quality"])
    settings = config.load(lived.model).evaluation
    assert set(measured.metrics) == set(settings.metrics)
    assert measured.low is not None
    assert measured.high is not None
    assert measured.low <= measured.metrics[settings.metric] <= measured.high
    assert measured.verdict.checks[-1].name == "label_coverage"


def test_the_report_draws_what_a_person_wants_of_this_kind(lived: World, objective: str) -> None:
    evaluation = Evaluation.model_validate(lived.records("candidate")[1].facts["evaluation"])
    assert evaluation.findings is not None
    assert evaluation.report is not None
    findings = Findings.model_validate_json(lived.deployment.storage.fetch(evaluation.findings))
    page = lived.deployment.storage.fetch(evaluation.report).decode()
    titles = {"multiclass": "Confusion", "regression": "Residuals", "lambdarank": "NDCG of the groups"}
    assert titles[objective] in page
    assert "ROC" not in page
    assert findings.curves is None
    assert (findings.calibration is None) == (objective == "lambdarank")
    assert findings.importance[0].feature in "abc"
    assert findings.importance[0].effect > 0
    if objective == "multiclass":
        assert np.array(findings.confusion).sum() == findings.rows
    if objective == "regression":
        scores, left = np.array(findings.residuals).T
        assert (np.diff(scores) >= 0).all()
        assert abs(left.mean()) < 0.5


def test_the_card_and_the_edge_variant_fit(lived: World, objective: str) -> None:
    version, storage = lived.versions()[-1], lived.deployment.storage
    assert version.card is not None
    card = storage.fetch(version.card).decode()
    assert f"objective {objective}" in card
    assert f"; {version_trees(lived, version)} trees" in card
    variants = [line for line in card.splitlines() if line.startswith("| edge.")]
    assert variants
    assert all(("% |" in line) == (objective == "multiclass") for line in variants)
    assert ("low, middle, high" in card) == (objective == "multiclass")
    report = EdgeReport.model_validate_json(storage.fetch(version.package.files["edge.json"]))
    whole, small = report.variants
    assert whole.largest <= 1e-6
    assert small.trees == whole.trees // 2
    assert set(small.metrics) == set(config.load(lived.model).evaluation.metrics)


def version_trees(world: World, version: Any) -> int:
    lineage = world.deployment.storage.read_json(version.lineage.uri)
    return int(lineage["training"]["trees"])


def test_a_loaded_version_scores_and_explains(lived: World, objective: str) -> None:
    model = api.load("tiny", 1, deployment=lived.deployment)
    frame = pd.DataFrame({"a": [0.5], "b": [0.1], "c": [1.5], "height": [20.0]})
    scores = np.atleast_1d(model.score(frame)[0])
    told = model.explain(frame)
    assert told.score == pytest.approx(scores.max())
    assert told.raw == pytest.approx(sum(path.adds for path in told.paths))
    if objective == "multiclass":
        assert model.explain(frame, "low").score == pytest.approx(scores[0])
        assert str(model.explain(frame, "low")).startswith("score of low ")
        assert told.label == CLASSES[scores.argmax()]
        with pytest.raises(Exception, match="has no class 'tall'; it has low, middle, high"):
            model.explain(frame, "tall")
    else:
        assert told.score == pytest.approx(told.raw)
        assert told.label == ""
    with pytest.raises(DataError, match="takes numbers, as features.py builds them: could not convert string"):
        model.score(frame.assign(a="text"))


def test_the_same_comes_out_streamed_and_in_any_order(lived: World, objective: str) -> None:
    job, split = lived.job(force=True), lived.split(DAYS[2])
    whole = call(job, "train", split=split)
    configure(lived, objective, training={"memory": "streamed"})
    streamed = call(lived.job(force=True), "train", split=split)
    configure(lived, objective, training={"resources": {"cpu": 2}})
    threads = call(lived.job(force=True), "train", split=split)
    configure(lived, objective)
    assert whole.model_hash == streamed.model_hash == threads.model_hash


def test_early_stopping_measures_by_the_objective(lived: World, objective: str) -> None:
    configure(lived, objective, training={"rounds": 200, "early_stopping": {"rounds": 5, "window": "4h"}})
    trained = call(lived.job(), "train", split=lived.split(DAYS[2]))
    configure(lived, objective)
    assert trained.validation is not None
    assert (
        trained.validation.metric
        == {"multiclass": "log_loss", "regression": "rmse", "lambdarank": "ndcg_at_10"}[objective]
    )
    assert trained.validation.value is not None
    assert 0 < trained.trees < 200 * (3 if objective == "multiclass" else 1)


def test_a_champion_that_predicts_something_else_is_not_compared(tmp_path: Path) -> None:
    world = made(tmp_path, "regression")
    world.loops().drain()
    assert [v.version for v in world.versions()] == [1]
    configure(world, "multiclass")
    deliver(world, DAYS[3])
    world.loops().ci()
    train(world, world.job(), DAYS[3])
    world.loops().cd()
    refused = world.records("refusal")[-1]
    assert refused.outcome == "not_comparable"
    assert "it predicts something else (regression)" in refused.reason


@pytest.mark.parametrize(
    ("kind", "column", "bad", "said"),
    [
        (
            "multiclass",
            "class",
            "huge",
            r"the label 'class' has values that data\.label\.classes does not name, in 1 rows: 'huge'",
        ),
        ("regression", "outcome", np.inf, r"the label 'outcome' is infinite in 1 rows"),
        ("regression", "outcome", -1e19, r"the label 'outcome' is beyond 1e\+18 in 1 rows, .* choose a larger unit"),
        (
            "lambdarank",
            "relevance",
            1.5,
            r"must be a relevance, a whole number from 0 to 30: 1 rows have another, such as 1\.5",
        ),
        ("lambdarank", "relevance", 31.0, r"such as 31"),
        ("lambdarank", "relevance", -1.0, r"such as -1"),
    ],
)
def test_labels_that_do_not_fit_are_named(tmp_path: Path, kind: str, column: str, bad: object, said: str) -> None:
    world = made(tmp_path, kind)

    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        values = frame[column].astype("object" if isinstance(bad, str) else "float64").copy()
        values.iloc[5] = bad
        return frame.assign(**{column: values})

    world.rewrite(DAYS[0], "labels", spoil)
    with pytest.raises(DataError, match=said):
        call(world.job(), "build_features", work=world.work(DAYS[0]))


def test_a_group_that_is_null_is_an_error(tmp_path: Path) -> None:
    world = made(tmp_path, "lambdarank")
    world.rewrite(DAYS[0], "inputs", lambda f: f.assign(query=f["query"].where(f.index != 3)))
    with pytest.raises(DataError, match="the group 'query' is null in 1 rows"):
        call(world.job(), "build_features", work=world.work(DAYS[0]))


def test_a_group_that_lightgbm_cannot_learn_is_named() -> None:
    group = pd.Series(["few"] * 3 + ["many"] * 10_001)
    with pytest.raises(
        DataError, match="inputs.parquet: the group 'many' \\('query'\\) has 10001 rows, LightGBM ranks at most 10000"
    ):
        learnable(group, "query", "inputs.parquet")
    learnable(group.iloc[:-1], "query", "inputs.parquet")


def reordered() -> dict[str, Any]:
    label = {**CHANGES["multiclass"]["data"]["label"], "classes": list(CLASSES[::-1])}
    return {"label": label}


def test_predictions_of_another_meaning_have_no_quality_under_this_one(tmp_path: Path) -> None:
    """Neither numbers measured against other labels nor classes in another order, which have equally many columns."""
    world = made(tmp_path, "multiclass")
    world.loops().drain()
    deliver(world, DAYS[3], what=("inputs",))
    world.loops().score()
    for kind, said in (
        ("multiclass", "of other classes, or in another order: low, middle, high"),
        ("regression", "those of the objective multiclass"),
    ):
        deliver(world, DAYS[3], what=("labels",))
        configure(world, kind, **({"data": reordered()} if kind == "multiclass" else {}))
        world.loops().ci()
        data = FeatureVersion.model_validate(world.records("data")[-1].facts["data"])
        found = call(world.job(), "quality", predictions=manifest(world.job(), DAYS[3]), data=data)
        assert (found.metrics, found.verdict.outcome) == ({}, "error")
        assert said in found.verdict.reason()


@pytest.mark.parametrize(
    ("kind", "labels", "said"),
    [
        ("binary", np.ones(3), "the label is 1 in all 3 rows, nothing to learn"),
        ("multiclass", np.zeros(3), "the label is low in all 3 rows"),
        ("regression", np.full(3, 2.5), "the label is 2.5 in all 3 rows"),
        ("lambdarank", np.array([[1.0, 0], [1, 0], [2, 1]]), "every one of the 2 groups has one relevance only"),
        ("lambdarank", np.array([[1.0, 0], [2, 0], [2, 1]]), ""),
        ("regression", np.array([1.0, 2.0]), ""),
        ("binary", np.zeros(0), "no rows"),
    ],
)
def test_labels_that_tell_nothing_are_told(tmp_path: Path, kind: str, labels: Array, said: str) -> None:
    directory = write_model(tmp_path, **({} if kind == "binary" else changes(kind)))
    found = kind_of(config.load(directory)).problem(labels)
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_what_tells_nothing_is_not_trained_on(lived: World, objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "targets", lambda _, frame: constant(objective, len(frame)))
    with pytest.raises(DataError, match="nothing to learn"):
        call(lived.job(force=True), "train", split=lived.split(DAYS[2]))


def constant(objective: str, rows: int) -> Array:
    return np.zeros((rows, 2)) if objective == "lambdarank" else np.zeros(rows)


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        (
            "binary",
            {"data": {"label": {"positive_above": None}}},
            "data.label.positive_above: is needed for the objective binary",
        ),
        ("binary", {"data": {"group": "site"}}, "data.group: says nothing for the objective binary"),
        ("binary", {"evaluation": {"metrics": ["auc", "rmse"]}}, r"evaluation.metrics\[1\]: rmse does not measure"),
        (
            "regression",
            {"data": {"label": {"positive_above": 0}}},
            "data.label.positive_above: says nothing for the objective regression",
        ),
        (
            "regression",
            {"evaluation": {"metric": "auc", "metrics": ["auc"]}},
            r"evaluation.metrics\[0\]: auc does not measure",
        ),
        ("regression", {"evaluation": {"metric": "auc"}}, "evaluation"),
        (
            "regression",
            {"evaluation": {"cut": 0.4}},
            "evaluation.cut: decides yes or no, which the objective regression",
        ),
        (
            "lambdarank",
            {"evaluation": {"calibration": {"max_error": 0.1}}},
            "max_error: scores of a ranking only order",
        ),
        ("multiclass", {"data": {"label": {"classes": [True, False]}}}, "YAML reads yes, no, on, off"),
        ("regression", {"evaluation": {"fairness": ["site"]}}, "evaluation.fairness: compares yes and no"),
        ("regression", {"training": {"params": {"scale_pos_weight": 2.0}}}, "params: scale_pos_weight: says nothing"),
        ("regression", {"gates": {"thresholds": {"rmse": {"max": -1}}}}, "is less than it can be"),
        ("multiclass", {"data": {"label": {"classes": None}}}, "data.label.classes: is needed"),
        ("multiclass", {"data": {"label": {"classes": ["low", "low"]}}}, "names a class twice"),
        ("multiclass", {"data": {"label": {"classes": ["low", 1]}}}, "must be all text or all whole numbers"),
        ("multiclass", {"data": {"label": {"classes": ["low"]}}}, "at least two classes are needed"),
        ("multiclass", {"evaluation": {"calibration": {"max_error": 2}}}, "must be below 1"),
        ("lambdarank", {"data": {"group": None}}, "data.group: is needed"),
        ("lambdarank", {"data": {"group": "nowhere"}}, "columns must name 'nowhere'"),
        (
            "lambdarank",
            {"training": {"params": {"lambdarank_truncation_level": 0}}},
            "lambdarank_truncation_level must be",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_by_model_yaml(
    tmp_path: Path, kind: str, more: dict[str, Any], said: str
) -> None:
    directory = write_model(tmp_path, **_merged({} if kind == "binary" else copy.deepcopy(changes(kind)), more))
    with pytest.raises(ConfigError, match=said):
        config.load(directory)


def _merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    for key, value in more.items():
        base[key] = _merged(dict(base.get(key) or {}), value) if isinstance(value, dict) else value
    return base
