"""model.yaml: what is refused, and how that is told; overlays and variants."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mlops_provider import config
from mlops_provider.config import ModelConfig, load, load_all, schema
from mlops_provider.exceptions import ConfigError, RequestError
from mlops_provider.sections.lightgbm import RANGES
from tests.support.tiny import values, write_model


def told(directory: Path, environment: str = "") -> str:
    with pytest.raises(ConfigError) as refused:
        load(directory, environment)
    return str(refused.value)


def line_of(file: Path, text: str) -> int:
    return next(number for number, line in enumerate(file.read_text().splitlines(), start=1) if text in line)


def test_the_tiny_model_is_valid(tmp_path: Path) -> None:
    assert load(write_model(tmp_path)).name == "tiny"


@pytest.mark.parametrize(
    ("section", "change", "key", "expected"),
    [
        ("training", {"rounds": "many"}, "training.rounds", "must be a number"),
        ("training", {"rounds": "200"}, "training.rounds", "must be a number"),
        ("training", {"seed": True}, "training.seed", "must be a number"),
        ("gates", {"min_gain": "0.1"}, "gates.min_gain", "must be a number"),
        ("training", {"rounds": 0}, "training.rounds", "greater than or equal to 1"),
        ("training", {"seed": -1}, "training.seed", "greater than or equal to 0"),
        ("training", {"seed": 2**40}, "training.seed", "less than or equal to 2147483647"),
        ("training", {"params": {"learning_rate": -1}}, "training", "learning_rate must be a number above 0, found -1"),
        (
            "training",
            {"params": {"lambda_l1": float("inf")}},
            "training",
            "lambda_l1 must be a number from 0, found inf",
        ),
        (
            "training",
            {"params": {"num_leaves": "many"}},
            "training",
            "a whole number from 2 up to 131072, found 'many'",
        ),
        ("training", {"params": {"num_leaves": 31.5}}, "training", "num_leaves must be a whole number"),
        ("training", {"params": {"num_leaves": True}}, "training", "num_leaves must be a whole number"),
        ("training", {"params": {"bagging_fraction": 5}}, "training", "a number above 0 up to 1, found 5"),
        ("training", {"params": {"extra_trees": 1}}, "training", "extra_trees must be true or false, found 1"),
        ("data", {"label": {"positive_above": float("nan")}}, "data.label.positive_above", "finite number"),
        ("data", {"label": {"positive_above": float("inf")}}, "data.label.positive_above", "finite number"),
        ("gates", {"min_gain": float("inf")}, "gates.min_gain", "finite number"),
        ("monitoring", {"drift": {"threshold": float("inf")}}, "monitoring.drift.threshold", "finite number"),
        ("training", {"engine": "xgboost"}, "training.engine", "'lightgbm'"),
        ("training", {"resources": {"cpu": 0}}, "training.resources.cpu", "greater than or equal to 1"),
        ("training", {"params": {"objective": "regression"}}, "training", "must not set objective"),
        ("training", {"params": {"linear_tree": True}}, "training", "must not set linear_tree"),
        ("training", {"params": {"num_iterations": 3}}, "training", "use training.rounds"),
        ("training", {"window": {"kind": "rolling"}}, "training.window", "needs size"),
        ("training", {"window": {"size": 3}}, "training.window", "an expanding one has none"),
        ("training", {"window": {"kind": "rolling", "size": 1}}, "training.window", "at least minimum"),
        ("training", {"params": {"categorical_feature": "0"}}, "training", "use features.categorical"),
        ("training", {"params": {"early_stopping_round": 5}}, "training", "use training.early_stopping"),
        ("training", {"early_stopping": {"rounds": 5}}, "training.early_stopping.window", "is missing"),
        (
            "training",
            {"early_stopping": {"rounds": 0, "window": "1d"}},
            "training.early_stopping.rounds",
            "greater than",
        ),
        (
            "training",
            {"early_stopping": {"rounds": 5, "window": "0d"}},
            "training.early_stopping.window",
            "longer than",
        ),
        (
            "training",
            {"early_stopping": {"rounds": 5, "window": "1d", "metric": "f1"}},
            "training.early_stopping.metric",
            "'auc'",
        ),
        ("training", {"weight": {}}, "training.weight", "give column, half_life or both"),
        ("training", {"weight": {"half_life": "0d"}}, "training.weight.half_life", "longer than nothing"),
        ("training", {"fit": "train.fit"}, "training.fit", "'features.py:build'"),
        ("training", {"start": "scratch"}, "training.start", "'fresh' or 'champion'"),
        ("training", {"memory": "huge"}, "training.memory", "'whole' or 'streamed'"),
        (
            "training",
            {"memory": "streamed", "start": "champion"},
            "training",
            "streamed does not go with start champion",
        ),
        ("training", {"memory": "streamed", "fit": "train.py:fit"}, "training", "does not go with fit train.py:fit"),
        ("features", {"categorical": ["z"]}, "features", "categorical names z, which columns does not"),
        ("features", {"categorical": ["a", "a"]}, "features.categorical", "names a more than once"),
        ("data", {"partition": "yearly"}, "data.partition", "'monthly', 'daily' or 'hourly'"),
        ("data", {"source": "tiny/inputs.parquet"}, "data", "source must hold {partition}"),
        ("data", {"columns": ["id", "a"]}, "data", "columns must name 'at'"),
        ("data", {"columns": ["id", "at", "outcome"]}, "data", "columns must not name the label 'outcome'"),
        ("data", {"columns": ["id", "at", "a", "a"]}, "data", "columns names a more than once"),
        ("data", {"event_time": "id"}, "data", "key and event_time must be two columns, both are 'id'"),
        ("data", {"label": {"column": "id"}}, "data", "label.column must not be the key 'id'"),
        ("data", {"label": {"source": "tiny/{partition}/inputs.parquet"}}, "data", "label.source must not be source"),
        ("data", {"source": "tiny/{partition}/{x}.parquet"}, "data", "source must not hold { }: it names one file"),
        ("data", {"source": "tiny/{partition}/*.parquet"}, "data", "source must not hold *: it names one file"),
        ("data", {"history": {"sites": "sites[1].parquet"}}, "data", "history.sites.source must not hold [ ]"),
        ("data", {"lead": "1y"}, "data.lead", "such as '2h'"),
        ("data", {"label": {"delay": "soon"}}, "data.label.delay", "such as '2h'"),
        ("data", {"label": {"source": "labels.parquet"}}, "data", "label.source must hold {partition}"),
        ("data", {"suites": {"raw": "../raw.json"}}, "data.suites.raw", "without '..'"),
        ("data", {"suites": {"raw": "/etc/passwd"}}, "data.suites.raw", "inside the model's directory"),
        ("data", {"dvc": {"path": "../elsewhere"}}, "data.dvc.path", "match pattern"),
        (
            "evaluation",
            {"slices": {"x": {"column": "a", "values": [1], "bins": [2]}}},
            "evaluation.slices.x",
            "not both",
        ),
        ("evaluation", {"slices": {"x": {"column": "a", "bins": [2, 1]}}}, "evaluation.slices.x", "edges that rise"),
        ("evaluation", {"slices": {"x": {"column": "a", "values": [1, 1]}}}, "evaluation.slices.x", "a value twice"),
        ("evaluation", {"fairness": ["a", "a"]}, "evaluation.fairness", "a column twice"),
        ("evaluation", {"importance": {"worth": 0.1}}, "evaluation.importance", "costs and worth go together"),
        ("evaluation", {"importance": {"worth": 0.1, "costs": {"a": 0}}}, "evaluation.importance", "above 0"),
        ("evaluation", {"baselines": {"severity": "error"}}, "evaluation.baselines.severity", "'fail' or 'warn'"),
        ("gates", {"fairness": {"odds": {"max": 0.1}}}, "gates.fairness.odds.[key]", "demographic_parity_difference"),
        ("data", {"watch": {"poll": "0s"}}, "data.watch.poll", "longer than nothing"),
        ("data", {"watch": {"complete": "soon"}}, "data.watch.complete", "'stable', 'marker' or 'rows'"),
        ("data", {"watch": {"marker": "../x"}}, "data.watch.marker", "match pattern"),
        (
            "data",
            {"watch": {"complete": "marker"}, "source": "tiny/{partition}.parquet"},
            "data",
            "would share tiny/_SUCC",
        ),
        ("data", {"replay": "feed.py"}, "data.replay", "features.py:build"),
        ("features", {"build": "../features.py:build"}, "features.build", "features.py:build"),
        ("features", {"build": "os:system"}, "features.build", "features.py:build"),
        ("features", {"columns": []}, "features.columns", "at least 1"),
        ("evaluation", {"metric": "f1"}, "evaluation.metric", "'auc', 'log_loss', 'brier'"),
        ("evaluation", {"metrics": ["brier"]}, "evaluation", "must name the primary metric 'auc'"),
        ("evaluation", {"cut": 1}, "evaluation.cut", "less than 1"),
        ("gates", {"thresholds": {"auc": {"min": None}}}, "gates.thresholds.auc", "give min, max or both"),
        ("gates", {"min_gain": float("nan")}, "gates.min_gain", "finite number"),
        ("gates", {"parity": 0.1}, "gates.parity", "less than or equal to 0.001"),
        ("monitoring", {"schedule": "daily at six"}, "monitoring", "expected five fields"),
        ("monitoring", {"drift": {"share": 2}}, "monitoring.drift.share", "less than or equal to 1"),
        ("monitoring", {"drift": {"sample": 1000}}, "monitoring.drift.sample", "greater than 1000"),
        ("retrain", {"violations": 4}, "retrain", "violations (4) cannot exceed windows (3)"),
        ("retrain", {"policy": "always"}, "retrain.policy", "'never', 'periodic', 'threshold' or 'cost_aware'"),
        ("retrain", {"policy": "cost_aware"}, "retrain", "needs costs"),
        ("retrain", {"costs": {"training": 1}}, "retrain.costs", "give metric_unit or wrong_answer, one of the two"),
        (
            "retrain",
            {"costs": {"training": 1, "metric_unit": 1, "wrong_answer": 1}},
            "retrain.costs",
            "give metric_unit or wrong_answer, one of the two",
        ),
        (
            "retrain",
            {"costs": {"training": -1, "metric_unit": 1}},
            "retrain.costs.training",
            "greater than or equal to 0",
        ),
        ("retrain", {"costs": {"training": 1, "metric_unit": 0}}, "retrain.costs.metric_unit", "greater than 0"),
        ("retrain", {"costs": {"training": 1, "metric_unit": float("nan")}}, "retrain.costs.metric_unit", "nan"),
        ("retrain", {"costs": {"training": float("inf"), "metric_unit": 1}}, "retrain.costs.training", "finite"),
        ("retrain", {"cooldown": 6, "horizon": 6}, "retrain", "cooldown (6) must be shorter than horizon (6)"),
        ("retrain", {"prior": {"share": 1.5}}, "retrain.prior.share", "less than or equal to 1"),
        ("retrain", {"prior": {"per_partition": -1}}, "retrain.prior.per_partition", "greater than or equal to 0"),
        ("retrain", {"prior": {"share": 0}}, "retrain.prior", "expect nothing of a new model"),
        (
            "retrain",
            {"costs": {"training": 1, "wrong_answer": 1}},
            "retrain.costs.wrong_answer",
            "auc does not count wrong answers",
        ),
        ("scoring", {"order": "sometimes"}, "scoring.order", "'wait' or 'immediate'"),
    ],
)
def test_a_bad_value_names_file_key_and_what_was_expected(
    tmp_path: Path, section: str, change: dict[str, Any], key: str, expected: str
) -> None:
    directory = write_model(tmp_path, **{section: change})
    message = told(directory)
    assert message.startswith(f"{directory.resolve() / 'model.yaml'}:")
    assert re.search(rf"model\.yaml(:\d+)?: {re.escape(key)}[.:]", message), message  # the key, or one in it
    assert expected in message


def test_the_line_of_a_bad_value_is_named(tmp_path: Path) -> None:
    directory = write_model(tmp_path, training={"rounds": -1})
    file = directory / "model.yaml"
    assert f"model.yaml:{line_of(file, 'rounds')}: training.rounds" in told(directory)


def test_every_bad_value_is_told_at_once(tmp_path: Path) -> None:
    message = told(write_model(tmp_path, owner="", training={"rounds": -1}, scoring={"order": "no"}))
    assert len(message.splitlines()) == 3


@pytest.mark.parametrize("place", [(), ("training",), ("data", "label"), ("monitoring", "drift")])
def test_an_unknown_key_is_refused_with_its_line(tmp_path: Path, place: tuple[str, ...]) -> None:
    change: dict[str, Any] = {"roundz": 7}
    for name in reversed(place):
        change = {name: change}
    directory = write_model(tmp_path, **change)
    key = ".".join([*place, "roundz"])
    assert f"model.yaml:{line_of(directory / 'model.yaml', 'roundz')}: {key}: unknown key" in told(directory)


def test_a_key_given_twice_is_refused_with_its_second_line(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    file = directory / "model.yaml"
    text = file.read_text()
    file.write_text(f"{text}owner: another\n")
    assert f"model.yaml:{text.count(chr(10)) + 1}: " in told(directory)
    assert "the key 'owner' is given twice" in told(directory)


@pytest.mark.parametrize("missing", ["owner", "data", "gates", "monitoring", "features"])
def test_a_missing_section_is_named(tmp_path: Path, missing: str) -> None:
    assert f": {missing}: is missing" in told(write_model(tmp_path, **{missing: None}))


def test_a_block_of_no_width_takes_down_only_its_own_model(tmp_path: Path) -> None:
    write_model(tmp_path)
    write_model(tmp_path, name="broken", evaluation={"block": "0d"})
    models, errors = load_all(tmp_path)
    assert [found.name for _, found in models] == ["tiny"]
    assert ["evaluation.block" in str(error) for error in errors] == [True]


def test_an_unknown_parameter_of_lightgbm_is_refused(tmp_path: Path) -> None:
    assert "num_leafs" in told(write_model(tmp_path, training={"params": {"num_leafs": 3}}))


@pytest.mark.parametrize("text", ["", "- a list", "just text", "a: [1, 2", "a: \tb: c", "a: b: c", "day: 2024-13-45"])
def test_a_file_that_holds_no_keys_and_values_is_refused(tmp_path: Path, text: str) -> None:
    directory = write_model(tmp_path)
    directory.joinpath("model.yaml").write_text(text)
    assert "model.yaml" in told(directory)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    directory.joinpath("model.yaml").write_bytes(b"\xff\xfe\x00name: tiny")
    assert "model.yaml" in told(directory)


@pytest.mark.parametrize("name", ["../tiny", "Tiny", "1tiny", "t", "tiny-model", "tiny\n", "a" * 64])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    directory = write_model(tmp_path)
    directory.joinpath("model.yaml").write_text(yaml.safe_dump(values(name=name)))
    assert "name: " in told(directory)


@pytest.mark.parametrize("name", ["../tiny", "tiny/..", "tiny\n", "", "Tiny"])
def test_a_bad_name_from_outside_is_refused_before_it_touches_a_path(name: str) -> None:
    with pytest.raises(RequestError, match="no name of a model"):
        config.check_name(name)


def test_a_model_is_named_like_its_directory(tmp_path: Path) -> None:
    directory = write_model(tmp_path).rename(tmp_path / "models" / "other")
    assert "must be the name of its directory, 'other'" in told(directory)


def test_a_typo_takes_down_only_its_own_model(tmp_path: Path) -> None:
    write_model(tmp_path)
    write_model(tmp_path, name="broken", retrian={"policy": "never"})
    models, errors = load_all(tmp_path)
    assert [found.name for _, found in models] == ["tiny"]
    assert ["retrian" in str(error) for error in errors] == [True]


@pytest.mark.parametrize("spoil", ["date", "directory"])
def test_an_unreadable_file_takes_down_only_its_own_model(tmp_path: Path, spoil: str) -> None:
    write_model(tmp_path)
    file = write_model(tmp_path, name="broken") / "model.yaml"
    file.unlink()
    if spoil == "date":
        file.write_text("name: 2024-13-45")
    else:
        file.mkdir()
    models, errors = load_all(tmp_path)
    assert [found.name for _, found in models] == ["tiny"]
    assert [str(file) in str(error) for error in errors] == [True]


@pytest.mark.parametrize(
    "change",
    [
        {"gates": {"thresholds": {"auc": {"min": 0.9, "max": 0.5}}}},
        {"gates": {"thresholds": {"brier": {"max": 0.2}}}, "evaluation": {"metrics": ["auc"]}},
        {"monitoring": {"quality": {"thresholds": {"brier": {"max": 0.2}}}}, "evaluation": {"metrics": ["auc"]}},
        {"evaluation": {"block": "1d"}},
        {"gates": {"slices": {"site": {}}}},
        {"monitoring": {"quality": {"slices": {"site": {"thresholds": {"auc": {"min": 0.5}}}}}}},
        {"evaluation": {"slices": {"site": {"column": "later"}}}},
        {"evaluation": {"fairness": ["surname"]}, "data": {"pii": ["surname"]}},
        {"gates": {"fairness": {"equalized_odds_difference": {"max": 0.1}}}},
        {"evaluation": {"importance": {"costs": {"site": 1.0}, "worth": 0.1}}},
        {
            "evaluation": {"metrics": ["auc"], "slices": {"site": {"column": "site"}}},
            "gates": {"slices": {"site": {"thresholds": {"brier": {"max": 0.2}}}}},
        },
        {"features": {"columns": ["a", "b", "a"]}},
        {"features": {"columns": ["a", "label"]}},
        {"features": {"columns": ["a", "id"]}},
        {"features": {"columns": ["a", "at"]}},
    ],
    ids=[
        "min_above_max",
        "gate_not_measured",
        "quality_not_measured",
        "too_few_blocks_in_a_partition",
        "gate_of_slices_that_are_not_named",
        "quality_of_slices_that_are_not_named",
        "slices_of_a_column_that_is_not_read",
        "groups_of_personal_data",
        "fairness_of_no_groups",
        "cost_of_no_feature",
        "slice_gate_not_measured",
        "feature_twice",
        "feature_named_label",
        "feature_named_as_the_key",
        "feature_named_as_the_event_time",
    ],
)
def test_an_impossible_combination_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    told(write_model(tmp_path, **change))


@pytest.mark.parametrize(
    "name",
    [
        "application",
        "app",
        "loss",
        "objective_type",
        "num_thread",
        "random_seed",
        "num_trees",
        "n_iter",
        "max_iter",
        "num_rounds",
        "metrics",
        "linear_trees",
        "cat_feature",
        "boosting_type",
    ],
)
def test_a_parameter_that_the_loops_set_is_refused_under_every_alias(tmp_path: Path, name: str) -> None:
    assert name in told(write_model(tmp_path, training={"params": {name: 1}}))


def test_a_weight_that_is_no_feature_is_refused(tmp_path: Path) -> None:
    message = told(write_model(tmp_path, training={"weight": {"column": "price"}}))
    assert "training.weight.column: 'price' is not among features.columns" in message


def test_statistics_of_all_rows_do_not_stream(tmp_path: Path) -> None:
    fitted = {"fit": "features.py:fit", "apply": "features.py:apply"}
    message = told(write_model(tmp_path, training={"memory": "streamed"}, features=fitted))
    assert "training.memory streamed does not go with features.fit" in message


def test_a_fit_whose_file_is_missing_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, training={"fit": "train.py:fit"})
    (error,) = load_all(tmp_path)[1]
    assert "training.fit: there is no file train.py" in str(error)


def test_an_overlay_changes_the_environment_that_it_names(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    directory.joinpath("model.prod.yaml").write_text("training: {params: {num_leaves: 4}}")
    assert load(directory, "prod").training.params["num_leaves"] == 4
    assert load(directory, "prod").training.params["learning_rate"] == 0.2
    assert load(directory, "test").training.params["num_leaves"] == 8


@pytest.mark.parametrize("key", ["name", "extends"])
def test_an_overlay_cannot_set(tmp_path: Path, key: str) -> None:
    directory = write_model(tmp_path)
    directory.joinpath("model.prod.yaml").write_text(f"{key}: other")
    message = told(directory, "prod")
    assert "model.prod.yaml" in message
    assert key in message


def test_a_bad_value_in_an_overlay_names_the_overlay(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    directory.joinpath("model.prod.yaml").write_text("training:\n  rounds: -1\n")
    assert "model.prod.yaml:2: training.rounds" in told(directory, "prod")


def test_a_bad_value_below_an_overlay_names_the_file_that_holds_it(tmp_path: Path) -> None:
    directory = write_model(tmp_path, training={"rounds": -1})
    directory.joinpath("model.prod.yaml").write_text("training:\n  seed: 3\n")
    assert f"model.yaml:{line_of(directory / 'model.yaml', 'rounds')}: training.rounds" in told(directory, "prod")


def variant(include: Path, text: str, name: str = "smaller") -> Path:
    directory = include / "models" / name
    directory.mkdir(parents=True, exist_ok=True)
    directory.joinpath("model.yaml").write_text(text)
    return directory


def test_a_variant_changes_what_it_names_and_keeps_the_rest(tmp_path: Path) -> None:
    base = write_model(tmp_path)
    directory = variant(tmp_path, "extends: ../tiny/model.yaml\nname: smaller\ntraining: {rounds: 5}")
    found = load(directory)
    assert (found.name, found.training.rounds) == ("smaller", 5)
    assert found.data == load(base).data


def test_a_variant_inherits_the_overlay_of_its_base(tmp_path: Path) -> None:
    write_model(tmp_path).joinpath("model.prod.yaml").write_text("training: {rounds: 9}")
    directory = variant(tmp_path, "extends: ../tiny/model.yaml\nname: smaller")
    assert load(directory, "prod").training.rounds == 9
    assert load(directory).training.rounds == 20


def test_a_variant_needs_a_name_of_its_own(tmp_path: Path) -> None:
    write_model(tmp_path)
    assert "a variant needs a name of its own" in told(variant(tmp_path, "extends: ../tiny/model.yaml"))


@pytest.mark.parametrize("target", ["../../outside/model.yaml", "/etc/passwd", "../tiny/other.yaml", "[1]"])
def test_a_variant_extends_models_beside_it_only(tmp_path: Path, target: str) -> None:
    write_model(tmp_path)
    message = told(variant(tmp_path, f"extends: {target}\nname: smaller"))
    assert "expected ../<other model>/model.yaml" in message


def test_a_circle_of_variants_is_refused(tmp_path: Path) -> None:
    variant(tmp_path, "extends: ../other/model.yaml\nname: smaller")
    assert "goes in a circle" in told(variant(tmp_path, "extends: ../smaller/model.yaml\nname: other", "other"))


def test_a_variant_of_nothing_names_the_file_that_is_missing(tmp_path: Path) -> None:
    message = told(variant(tmp_path, "extends: ../tiny/model.yaml\nname: smaller"))
    assert str(tmp_path / "models" / "tiny" / "model.yaml") in message


def test_a_variant_of_a_bad_model_is_named_with_its_base(tmp_path: Path) -> None:
    write_model(tmp_path).joinpath("model.yaml").write_text("name: [")
    directory = variant(tmp_path, "extends: ../tiny/model.yaml\nname: smaller")
    message = told(directory)
    assert message.startswith(f"{directory.resolve() / 'model.yaml'}: extends ../tiny/model.yaml")
    assert str(tmp_path / "models" / "tiny" / "model.yaml") in message


@pytest.mark.parametrize(
    ("file", "key"),
    [("features.py", "features.build"), ("feed.py", "data.replay"), ("expectations/raw.json", "data.suites.raw")],
)
def test_a_file_that_is_named_and_not_there_is_refused(tmp_path: Path, file: str, key: str) -> None:
    directory = write_model(tmp_path)
    directory.joinpath(file).unlink()
    models, errors = load_all(tmp_path)
    assert models == []
    assert re.search(rf"model\.yaml:\d+: {re.escape(key)}: there is no file {re.escape(file)}", str(errors[0]))


def test_a_variant_uses_the_files_of_its_base(tmp_path: Path) -> None:
    write_model(tmp_path)
    assert load(variant(tmp_path, "extends: ../tiny/model.yaml\nname: smaller")).name == "smaller"


def test_how_data_is_noticed_shapes_no_model(tmp_path: Path) -> None:
    plain, watched = (load(write_model(tmp_path, data={"watch": watch})) for watch in ({}, {"poll": "30s"}))
    assert watched.data.watch is not None
    assert watched.data.watch.poll == "30s"
    assert plain.sections("data") == watched.sections("data")
    assert plain.model_dump() == watched.model_dump()


def test_the_schema_describes_every_section() -> None:
    whole = schema()["else"]
    assert set(whole["properties"]) == set(ModelConfig.model_fields)
    assert whole["additionalProperties"] is False


VARIANT = {"extends": "../tiny/model.yaml", "name": "smaller", "data": {"label": {"delay": "2d"}}}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (values(), ""),
        (values(owner=None), "'owner' is a required property"),
        (values(training={"roundz": 1}), "'roundz' was unexpected"),
        (VARIANT, ""),
        ({**VARIANT, "name": None}, "None is not of type 'string'"),
        ({**VARIANT, "data": {"label": {"delai": "2d"}}}, "'delai' was unexpected"),
        ({**VARIANT, "extends": "/etc/passwd"}, "does not match"),
    ],
)
def test_an_editor_with_the_schema_sees_what_is_wrong(content: dict[str, Any], fault: str) -> None:
    found = [error.message for error in jsonschema.Draft202012Validator(schema()).iter_errors(content)]
    assert [message for message in found if fault in message] if fault else found == []


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"row_count": 0}, "row_count"),
        ({"null_share": 1.5}, "null_share"),
        ({"leakage": 0.5}, "leakage"),
        ({"leakage": 1.1}, "leakage"),
        ({"partitions": 0}, "partitions"),
        ({"columns": "ignore"}, "columns"),
        ({"duplicates": "error"}, "duplicates"),
        ({"schema": "warn"}, "schema"),
    ],
)
def test_impossible_limits_of_changes_are_refused(tmp_path: Path, changes: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.changes\.{place}: "):
        load(write_model(tmp_path, data={"changes": changes}))


def test_every_parameter_of_lightgbm_that_may_be_set_has_a_range_or_is_a_switch() -> None:
    from mlops_provider.sections.loops import _PARAMS

    switches = {
        "extra_trees",
        "is_unbalance",
        "boost_from_average",
        "use_missing",
        "feature_pre_filter",
        "enable_bundle",
        "lambdarank_norm",
    }
    assert set(RANGES) | switches == set(_PARAMS.split())


@pytest.mark.parametrize(
    "params", [{"learning_rate": 1}, {"max_depth": -1, "extra_trees": True}, {"feature_fraction": 1.0, "lambda_l2": 0}]
)
def test_values_that_lightgbm_takes_are_kept_as_they_are(tmp_path: Path, params: dict[str, Any]) -> None:
    found = load(write_model(tmp_path, training={"params": params})).training.params
    assert {name: found[name] for name in params} == params


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"gates": {"thresholds": {"auc": {"min": 5}}}},
            "gates.thresholds.auc.min (5) is more than it can be: 1 at most",
        ),
        ({"gates": {"thresholds": {"brier": {"max": -1}}}}, "gates.thresholds.brier.max (-1) is less than it can be"),
        (
            {"monitoring": {"quality": {"thresholds": {"log_loss": {"max": -0.1}}}}},
            "monitoring.quality.thresholds.log_loss.max (-0.1) is less than it can be: 0 at least",
        ),
    ],
)
def test_a_limit_that_nothing_can_keep_is_refused(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    assert expected in told(write_model(tmp_path, **change))


def test_a_variant_of_a_bad_model_is_named_and_so_is_a_file_of_another_ending(tmp_path: Path) -> None:
    base = write_model(tmp_path, training={"ruonds": 3})
    variant = tmp_path / "models" / "variant"
    variant.mkdir()
    variant.joinpath("model.yaml").write_text("extends: ../tiny/model.yaml\nname: variant\n")
    odd = tmp_path / "models" / "odd"
    odd.mkdir()
    odd.joinpath("model.yml").write_text("name: odd\n")
    models, errors = load_all(tmp_path)
    assert models == []
    told = [str(error) for error in errors]
    assert told[0].startswith(f"{base}/model.yaml:")
    assert told[1].startswith(f"{variant}/model.yaml: cannot be used, as it extends: {base}/model.yaml:")
    assert told[2] == f"{odd}/model.yml: must be named model.yaml"


@pytest.mark.parametrize(
    ("change", "key", "line"),
    [
        ({"name": "other"}, "name", "name: other"),
        ({"gates": {"thresholds": {"auc": {"min": 60}}}}, "gates.thresholds.auc.min", "min: 60"),
        ({"training": {"params": {"num_leavez": 3}}}, "training.params", "params:"),
        ({"data": {"suites": {"raw": "expectations/rawx.json"}}}, "data.suites.raw", "raw: expectations/rawx.json"),
    ],
)
def test_a_fault_of_several_keys_names_the_line_of_the_one_that_it_begins_with(
    tmp_path: Path, change: dict[str, Any], key: str, line: str
) -> None:
    directory = write_model(tmp_path, **change)
    if "name" in change:
        directory = directory.rename(tmp_path / "models" / "tiny")
    lines = directory.joinpath("model.yaml").read_text().splitlines()
    number = next(place for place, text in enumerate(lines, 1) if text.strip() == line)
    (error,) = load_all(tmp_path)[1]
    assert f"model.yaml:{number}: {key}: " in str(error), str(error)
