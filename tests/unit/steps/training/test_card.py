"""The model card says what the records say, and nothing else."""

from __future__ import annotations

from mlops_provider.steps.records import ModelVersion
from mlops_provider.steps.training.register import RegisterArguments, _card
from mlops_provider.storage import Storage
from tests.support.tiny import DAYS, World, candidate, registry_of, train


def text(version: ModelVersion) -> str:
    assert version.card is not None
    return Storage().fetch(version.card).decode()


def test_a_version_carries_its_card(registered: World) -> None:
    (version,) = registered.versions()
    card = text(version)
    assert card.startswith("# Model card: tiny\n\nWhether an outcome lies above zero")
    assert "- owner: tests" in card
    assert version.fingerprint in card
    for day in DAYS[:2]:
        assert f"| {day} |" in card
    assert f"Judged on {DAYS[2]}" in card
    assert "There was no champion to compare with." in card
    assert "at least 0.6" in card
    assert f"It has seen data up to {DAYS[2]}" in card
    assert version.package.code.sha256 in card
    assert "`card.md` in" not in card
    assert "written nothing on its intended use" in card
    for feature in version.package.features:
        assert f"| {feature} |" in card
    assert "## Variants" not in card


def test_the_card_is_in_mlflow(registered: World) -> None:
    (version,) = registered.versions()
    path = registry_of(registered).download_artifacts(version.run_id, "card.md")
    with open(path) as file:
        assert file.read() == text(version)


def test_the_same_records_give_the_same_card(trained: World) -> None:
    given, job = RegisterArguments(**candidate(trained)), trained.job()
    assert _card(job, given) == _card(job, given)


def test_the_gain_over_the_champion_is_in_it(challenger: World) -> None:
    card = text(challenger.versions()[-1])
    assert "champion (version 1)" in card
    assert "Gain in auc (above 0 this model is better): " in card


def test_what_shaped_the_model_is_in_it(trained: World) -> None:
    shaped = {"early_stopping": {"rounds": 3, "window": "4h"}, "weight": {"half_life": "6h"}, "rounds": 60}
    card = text(train(trained, trained.configure(training=shaped)))
    assert "- early stopping: log_loss " in card
    assert "- weights: halved every 6h" in card
    assert "rounds 60" in card
    assert " trees" in card


def test_the_team_speaks_in_it(trained: World) -> None:
    trained.model.joinpath("card.md").write_text("Only for demonstrations.\n")
    card = text(train(trained, trained.job()))
    assert "## From the team\n\nOnly for demonstrations.\n" in card
    assert "written nothing" not in card


def test_a_drill_is_named_first(trained: World) -> None:
    card = text(train(trained, trained.job(), drill="shuffled_labels"))
    assert "**A drill (shuffled_labels)" in card.split("## ")[0]


def test_variants_are_in_it(trained: World) -> None:
    card = text(train(trained, trained.configure(package={"edge": {"keep": 0.5}})))
    assert "## Variants for small devices" in card
    assert "| edge.ort | 10 | float32 |" in card


def test_a_package_of_old_still_has_a_card(trained: World) -> None:
    given = candidate(trained)
    old = given["package"].model_copy(update={"files": {}, "latency": ()})
    found = _card(trained.job(), RegisterArguments(**given | {"package": old}))
    card = Storage().fetch(found).decode()
    assert "It has no golden cases." in card
    assert "## Inputs" not in card
