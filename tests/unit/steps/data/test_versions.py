"""Data versions and who saw them."""

from __future__ import annotations

from mlops_provider.steps.data import versions
from mlops_provider.steps.data.versions import Known
from tests.support.tiny import DAYS, World
from tests.unit.steps.data.test_snapshot import changed, data_versions, versioned


def known(world: World) -> list[Known]:
    return list(versions.known(world.job(), tuple(world.records())))


def test_who_saw_a_version_is_told(registered: World) -> None:
    found = known(registered)
    assert [(one.data.partition, one.fitted, one.judged) for one in found] == [
        (DAYS[0], (1,), ()),
        (DAYS[1], (1,), ()),
        (DAYS[2], (), (1,)),
    ]
    assert all(one.superseded is None for one in found)


def test_labels_revised_after_they_were_used_make_a_version_and_name_who_used_the_old_one(registered: World) -> None:
    before = data_versions(registered)[0]
    registered.rewrite(DAYS[0], "labels", lambda frame: frame.assign(outcome=-frame["outcome"]))
    after = versioned(registered).data
    old, new, *_ = known(registered)
    assert (old.data, new.data) == (before, after)
    assert (old.superseded is not None, new.superseded) == (True, None)
    assert (old.used, new.used) == ((1,), ())
    assert f"{DAYS[0]} was revised after version 1 had used it" in versions.render((old, new))


def test_content_that_came_back_is_accepted_again_and_not_superseded(registered: World) -> None:
    changed(registered)
    versioned(registered)
    registered.deliver(DAYS[0])
    versioned(registered)
    first, *_ = [one for one in known(registered) if one.data.partition == DAYS[0] and one.superseded is None]
    assert first.used == (1,)
    assert first.accepted == registered.records("data")[0].at
    assert "was revised" not in versions.render(tuple(known(registered)))


def test_a_version_is_told_as_json(registered: World) -> None:
    (first, *_) = versions.as_json(tuple(known(registered)))
    assert (first["data"]["partition"], first["fitted"], first["superseded"]) == (DAYS[0], [1], None)
    assert len(first["data"]["schema_hash"]) == 64
    assert first["data"]["uri"].endswith(first["data"]["md5"][2:])
