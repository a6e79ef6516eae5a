"""The page and the plots of an evaluation: whole, escaped, self-contained; and the files of the MLflow run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mlops_provider.checks import Check, Verdict
from mlops_provider.steps.records import Evaluation, Interval
from mlops_provider.steps.training.evaluation_report import page, save_evaluation
from mlops_provider.steps.training.findings import (
    Aged,
    Baseline,
    Calibrated,
    CalibrationBin,
    Curves,
    Fairness,
    FeatureEffect,
    Findings,
    FoundSlice,
    Group,
    Perturbed,
    SliceResult,
)
from mlops_provider.steps.training.plots import Bar, plots, spans
from mlops_provider.storage import Storage, canonical_json
from tests.support.tiny import World, candidate, registry_of

EVIL = "<script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>\"'&{0}"
GAIN = Interval(gain=0.02, low=0.01, high=0.03, blocks=24, confidence=0.9)


def findings(name: str = "plain", bars: int = 2) -> Findings:
    return Findings(
        metric="auc",
        rows=1_000,
        labels="0.3000 of them positive",
        curves=Curves(roc=((0, 0), (0.2, 0.7), (1, 1)), precision_recall=((0.1, 0.9), (1, 0.3))),
        calibration=Calibrated(
            bins=(
                CalibrationBin(rows=500, score=0.1, observed=0.12),
                CalibrationBin(rows=500, score=0.5, observed=0.48),
            ),
            error=0.02,
            reliability=0.001,
            resolution=0.03,
            uncertainty=0.21,
            within=0.002,
        ),
        baselines=(Baseline(name=name, metrics={"auc": 0.7}, gain=GAIN),),
        slices=tuple(
            SliceResult(
                slices=name, value=f"{name} {n}", rows=600, blocks=24, metrics={"auc": 0.7}, errors={"auc": 0.01}
            )
            for n in range(bars)
        ),
        found=(FoundSlice(feature=name, value="below 0", against="own", rows=600, excess=0.02, p=0.001),),
        importance=(FeatureEffect(feature=name, effect=0.1, low=0.05, high=0.15, missing=0.2, cost=2.0),),
        sample=1_000,
        robustness=(Perturbed(name=name, value=0.6, loss=0.1),),
        age=(Aged(version=1, partition=name, age=2, value=0.7, change=-0.01),),
        fairness=(
            Fairness(
                column=name,
                groups=(
                    Group(value=name, rows=600, selection_rate=0.5, true_positive_rate=0.6, false_positive_rate=0.1),
                ),
                differences={"equalized_odds_difference": 0.1},
            ),
        ),
    )


def evaluation(name: str = "plain") -> Evaluation:
    check = Check(name=name, passed=False, severity="warn", detail=name, subject=name)
    return Evaluation(
        metric="auc",
        partition=name,
        rows=1_000,
        candidate={"auc": 0.72},
        champion={"auc": 0.7},
        champion_version=3,
        interval=GAIN,
        verdict=Verdict(subject="evaluation", checks=(check,)),
    )


def test_everything_is_told() -> None:
    text = page("tiny", evaluation(), findings())
    for told in (
        "tiny evaluated on plain against version 3",
        "+0.0200 [+0.0100, +0.0300]",
        "Slices that were found",
        "expected calibration error",
        "equalized odds difference 0.1000",
        "Age of past versions",
        "Worse inputs",
    ):
        assert told in text
    assert text.count("<svg") == 5


def test_every_text_is_escaped_and_nothing_runs_or_is_fetched() -> None:
    text = page(EVIL, evaluation(EVIL), findings(EVIL))
    assert not re.search(r"<(script|img|iframe|link|object)\b", text)
    assert "src=" not in text.replace("src=http://evil.example/x", "")
    assert not re.search(r"url\(|@import|href=", text)


def test_what_was_not_found_has_no_section() -> None:
    empty = dict.fromkeys(("slices", "found", "importance", "robustness", "age", "fairness", "baselines"), ())
    text = page("tiny", evaluation(), findings().model_copy(update=empty))
    assert "<h2>Slices" not in text
    assert "<h2>Groups" not in text
    assert text.count("<svg") == 3


@pytest.mark.parametrize("name", ["plain", EVIL])
def test_every_plot_is_a_document_of_its_own(name: str) -> None:
    drawn = plots(findings(name))
    assert set(drawn) == {"roc", "precision_recall", "calibration", "slices", "importance"}
    for plot in drawn.values():
        root = ElementTree.fromstring(plot)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        width, height = (float(root.attrib[key]) for key in ("width", "height"))
        for element in root.iter():
            across = [float(v) for k, v in element.attrib.items() if k in ("x", "x1", "x2", "cx")]
            up = [float(v) for k, v in element.attrib.items() if k in ("y", "y1", "y2", "cy")]
            assert all(0 <= value <= width for value in across)
            assert all(0 <= value <= height for value in up)


def marks(plot: str) -> list[float]:
    return [float(element.attrib["cx"]) for element in ElementTree.fromstring(plot).iter() if "cx" in element.attrib]


def test_larger_values_lie_further_right() -> None:
    bars = [Bar(str(value), value, value - 0.01, value + 0.01) for value in (-0.2, 0.0, 0.1, 0.9)]
    found = marks(spans("values", bars, 0.0))
    assert found == sorted(found)
    assert (found[3] - found[0]) == pytest.approx(11 * (found[2] - found[1]), abs=2)


@pytest.mark.parametrize("value", [0.0, 1e-9, 12345.0])
def test_bars_of_no_width_are_drawn(value: float) -> None:
    ElementTree.fromstring(spans("values", [Bar("one", value, value, value)], None))


def test_of_very_many_bars_the_first_and_the_last_are_drawn() -> None:
    bars = [Bar(str(n), n, n, n) for n in range(100)]
    assert len(marks(spans("values", bars, None))) == 40


def evaluated(world: World, **changes: Any) -> dict[str, Any]:
    return candidate(world, world.configure(**changes))


def test_the_record_stays_small_and_names_its_files(accepted: World) -> None:
    rules = {f"of_{name}": {"column": name, "bins": [-1.5, -1, -0.5, 0, 0.5, 1, 1.5]} for name in "abc"}
    found = evaluated(accepted, evaluation={"slices": rules})["evaluation"]
    assert len(canonical_json(found.model_dump(mode="json"))) < 8 * 1024
    assert Storage().fetch(found.report).startswith(b"<!DOCTYPE html>")


def test_an_evaluation_of_old_has_no_files(accepted: World, tmp_path: Path) -> None:
    found = evaluated(accepted)["evaluation"].model_dump(mode="json")
    old = Evaluation.model_validate({key: value for key, value in found.items() if key not in ("findings", "report")})
    save_evaluation(accepted.job(), tmp_path / "evaluation", old)
    assert not list(tmp_path.iterdir())


def test_the_run_gets_the_page_the_findings_and_the_plots(registered: World) -> None:
    (version,) = registered.versions()
    names = {one.path for one in registry_of(registered).list_artifacts(version.run_id, "evaluation")}
    files = ("report.html", "findings.json", "roc.svg", "precision_recall.svg", "calibration.svg", "importance.svg")
    assert names == {f"evaluation/{file}" for file in files}
