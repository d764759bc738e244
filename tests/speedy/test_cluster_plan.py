"""Plans of local clusters: what is asked for, what may change, and what the directory holds."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from speedy.cluster_plan import Plan, Wanted, load_plan, make_plan, save_plan
from wire.errors import BadRequest, Conflict
from wire.settings_load import load


def test_a_new_cluster_has_two_groups_of_three_and_two_of_each_front_room() -> None:
    plan = make_plan(None, Wanted())
    assert [len(members) for members in plan.group_members().values()] == [3, 3]
    assert (len(plan.of("imageserver")), len(plan.of("registry"))) == (2, 2)
    assert len({process.port for process in plan.processes}) == len(plan.processes)


def test_the_same_wish_again_changes_nothing() -> None:
    plan = make_plan(None, Wanted(groups=1, replicas=2))
    assert make_plan(plan, Wanted(groups=1, replicas=2)) == plan
    assert make_plan(plan, Wanted()) == plan


def test_a_plan_grows_and_leaves_what_is_there_as_it_is() -> None:
    plan = make_plan(None, Wanted(groups=1, replicas=1, imageservers=1, registries=1))
    larger = make_plan(plan, Wanted(groups=3, imageservers=2, registries=3))
    assert set(plan.processes) < set(larger.processes)
    assert len(larger.group_members()) == 3
    assert len(larger.of("registry")) == 3


def test_a_plan_whose_configurations_could_not_be_written_is_known_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "config").touch()  # where a directory should be
    plan = make_plan(None, Wanted())
    with pytest.raises(FileExistsError):
        save_plan(tmp_path, plan)
    assert load_plan(tmp_path) == plan


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(groups=1),
        Wanted(replicas=2),
        Wanted(registries=1),
        Wanted(database_url="postgresql://h/other"),
        Wanted(groups=10_000),
    ],
)
def test_what_would_lose_chunks_or_sense_is_refused(wanted: Wanted) -> None:
    with pytest.raises(BadRequest):
        make_plan(make_plan(None, Wanted()), wanted)


@pytest.mark.parametrize("wanted", [Wanted(groups=0), Wanted(replicas=-1), Wanted(registries=0), Wanted(replicas=99)])
def test_impossible_numbers_are_refused_in_a_new_cluster(wanted: Wanted) -> None:
    with pytest.raises(BadRequest):
        make_plan(None, wanted)


def test_a_saved_plan_comes_back_and_every_configuration_is_good(tmp_path: Path) -> None:
    plan = make_plan(None, Wanted(groups=1, overrides=(("registry.chunk_bytes", "1MiB"),)))
    save_plan(tmp_path, plan)
    assert load_plan(tmp_path) == plan
    assert stat.S_IMODE((tmp_path / "cluster.json").stat().st_mode) == 0o600
    for process in plan.processes:
        settings = load(tmp_path / "config" / f"{process.name}.toml", {})
        assert getattr(settings, process.room).listen.port == process.port
        assert settings.cluster.masters == tuple(master.url for master in plan.of("chunkmaster"))
        assert settings.registry.chunk_bytes == 1024 * 1024
    assert load(tmp_path / "speedy.toml", {}).cluster.key_file == tmp_path / "cluster.key"


def test_a_directory_without_a_plan_has_none_and_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    assert load_plan(tmp_path) is None
    (tmp_path / "cluster.json").write_text("{}")
    with pytest.raises(Conflict):
        load_plan(tmp_path)


def test_sqlite_gives_each_room_a_file_of_its_own_and_postgresql_is_shared(tmp_path: Path) -> None:
    def urls(plan: Plan) -> set[str | None]:
        save_plan(tmp_path, plan)
        rooms = (*plan.of("chunkmaster"), *plan.of("metaserver"))
        return {load(tmp_path / "config" / f"{room.name}.toml", {}).database.url for room in rooms}

    assert len(urls(make_plan(None, Wanted()))) == 2
    assert len(urls(make_plan(None, Wanted(database_url="postgresql://u@h/d")))) == 1
