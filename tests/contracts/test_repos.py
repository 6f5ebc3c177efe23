"""`Repos` on every catalog: the rules of branching, and races of two pods."""

from __future__ import annotations

import asyncio
import random
import uuid
from dataclasses import replace
from typing import Any

import pytest

from app.backends.catalog import Catalog, Change, Receipt
from app.core.errors import DvidError, Invalid, NotAllowed, StoreUnavailable, Unknown
from app.versioning.graph import Instance, Repo
from app.versioning.repos import FIRST_MUTATION_ID, Repos


@pytest.fixture
def pods(catalog: Catalog) -> list[Repos]:
    return [Repos(catalog, 0.0), Repos(catalog, 0.0)]


def new_instance(root: str, name: str) -> Instance:
    return Instance(uuid.uuid4().hex, name, "keyvalue", root)


async def race(*tries: Any) -> tuple[list[Any], list[BaseException]]:
    answers = await asyncio.gather(*tries, return_exceptions=True)
    failed = [each for each in answers if isinstance(each, BaseException)]
    for each in failed:
        if not isinstance(each, DvidError):
            raise each
    return [each for each in answers if not isinstance(each, BaseException)], failed


async def seen(pod: Repos, root: str) -> Repo:
    return (await pod.forest()).repos[root]


async def test_a_new_repo_is_seen_by_all(pods: list[Repos]) -> None:
    repo = await pods[0].create("alias", "description", "secret")
    found = await seen(pods[1], repo.root)
    assert found == repo
    root = found.versions[repo.root]
    assert (found.alias, found.description, found.passcode) == ("alias", "description", "secret")
    assert (root.branch, root.locked, root.parents, root.number) == ("", False, [], 1)
    assert (await pods[1].resolve(repo.root[:6]))[1] == root
    second = await pods[1].create("other", "")
    assert second.versions[second.root].number > 1


async def test_the_rules_of_branching(pods: list[Repos]) -> None:
    here, there = pods
    root = (await here.create("r", "")).root
    with pytest.raises(NotAllowed, match="not locked"):
        await there.add_version(root, [root])
    await here.lock(root, root, "done", ["line"])
    with pytest.raises(NotAllowed):
        await there.lock(root, root, "", [])
    assert await there.is_locked(root, root)
    child = await there.add_version(root, [root])
    with pytest.raises(NotAllowed, match="already has a child"):
        await here.add_version(root, [root])
    branch = await here.add_version(root, [root], branch="side")
    for bad in ("side", "", "master"):
        with pytest.raises(Invalid):
            await there.add_version(root, [root], branch=bad)
    for version in (child, branch):
        await there.lock(root, version, "", [])
    with pytest.raises(NotAllowed, match="already exists"):
        await here.add_version(root, [child], branch="side")
    grandchild = await here.add_version(root, [branch])
    repo = await seen(there, root)
    assert repo.versions[grandchild].branch == "side"
    assert repo.leaf("side").uuid == grandchild
    assert repo.leaf("master").uuid == child
    assert repo.line(grandchild).versions == (grandchild, branch, root)
    assert repo.children[root] == [child, branch]
    merged = await there.add_version(root, [child, branch])
    repo = await seen(here, root)
    assert repo.versions[merged].branch == ""
    assert repo.ancestors(merged) == {merged, child, branch, root}
    assert len({version.number for version in repo.versions.values()}) == len(repo.versions)


async def test_assigned_uuids_are_used_once(pods: list[Repos]) -> None:
    name = uuid.uuid4().hex
    root = (await pods[0].create("r", "", root=name)).root
    assert root == name
    with pytest.raises(NotAllowed):
        await pods[1].create("s", "", root=name)
    await pods[0].lock(root, root, "", [])
    with pytest.raises(NotAllowed):
        await pods[1].add_version(root, [root], uuid_=name)
    child = uuid.uuid4().hex
    assert await pods[1].add_version(root, [root], uuid_=child) == child
    with pytest.raises(NotAllowed):
        await pods[0].add_version(root, [root], branch="b", uuid_=child)
    for bad in ("", "a/b", "x" * 300, "a\nb"):
        if bad:
            with pytest.raises(Invalid):
                await pods[0].create("t", "", root=bad)


async def test_of_two_repos_with_one_uuid_one_wins(pods: list[Repos]) -> None:
    name = uuid.uuid4().hex
    won, lost = await race(*[pod.create(alias, "", root=name) for pod in pods for alias in "ab"])
    assert len(won) == 1
    assert all(isinstance(each, NotAllowed) for each in lost)
    assert [await seen(pod, name) for pod in pods] == [won[0], won[0]]


async def test_of_racing_children_on_one_branch_one_wins(pods: list[Repos]) -> None:
    root = (await pods[0].create("r", "")).root
    await pods[0].lock(root, root, "", [])
    won, lost = await race(*[pod.add_version(root, [root]) for pod in pods for _ in range(2)])
    assert len(won) == 1
    assert all(isinstance(each, NotAllowed) for each in lost)
    won, lost = await race(*[pod.add_version(root, [root], branch="b") for pod in pods for _ in range(2)])
    assert len(won) == 1
    assert all(isinstance(each, NotAllowed) for each in lost)
    won, lost = await race(*[pods[n % 2].add_version(root, [root], branch=f"c{n}") for n in range(4)])
    assert len(won) == 4
    repos = [await seen(pod, root) for pod in pods]
    assert repos[0] == repos[1]
    assert len(repos[0].versions) == 7


async def test_of_racing_locks_one_wins(pods: list[Repos]) -> None:
    root = (await pods[0].create("r", "")).root
    won, lost = await race(*[pod.lock(root, root, f"note {n}", []) for n, pod in enumerate(pods)])
    assert (len(won), len(lost)) == (1, 1)
    assert isinstance(lost[0], NotAllowed)
    assert (await seen(pods[0], root)).versions[root].locked


async def test_of_racing_instances_with_one_name_one_wins(pods: list[Repos]) -> None:
    root = (await pods[0].create("r", "")).root
    won, lost = await race(*[pod.add_instance(root, new_instance(root, "data")) for pod in pods for _ in range(2)])
    assert len(won) == 1
    assert all(isinstance(each, NotAllowed) for each in lost)
    await race(*[pods[n % 2].add_instance(root, new_instance(root, f"data{n}")) for n in range(4)])
    repo = await seen(pods[1], root)
    assert sorted(repo.by_name) == ["data", "data0", "data1", "data2", "data3"]
    assert len(repo.instances) == 5
    for bad in ("", "a/b", "log"):
        with pytest.raises(Invalid):
            await pods[0].add_instance(root, new_instance(root, bad))


async def test_racing_edits_are_all_kept(pods: list[Repos]) -> None:
    root = (await pods[0].create("r", "")).root
    instance = new_instance(root, "data")
    await pods[0].add_instance(root, instance)

    def tag(name: str) -> Any:
        return lambda found: replace(found, tags={**(found.tags or {}), name: "x"})

    await asyncio.gather(
        *[pods[n % 2].add_log(root, [f"repo {n}"]) for n in range(4)],
        *[pods[n % 2].edit_version(root, root, log=[f"version {n}"]) for n in range(4)],
        *[pods[n % 2].edit_instance(root, instance.uuid, tag(f"t{n}")) for n in range(4)],
        pods[0].describe(root, "new alias", None),
        pods[1].describe(root, None, "new description"),
    )
    repo = await seen(pods[0], root)
    assert repo == await seen(pods[1], root)
    assert sorted(line.split("  ")[1] for line in repo.log) == [f"repo {n}" for n in range(4)]
    assert sorted(line.split("  ")[1] for line in repo.versions[root].log) == [f"version {n}" for n in range(4)]
    assert sorted(repo.instances[instance.uuid].tags or {}) == ["t0", "t1", "t2", "t3"]
    assert (repo.alias, repo.description) == ("new alias", "new description")


async def test_a_locked_version_is_edited_by_administrators_only(pods: list[Repos]) -> None:
    root = (await pods[0].create("r", "")).root
    await pods[0].lock(root, root, "", [])
    with pytest.raises(NotAllowed):
        await pods[1].edit_version(root, root, note="n")
    await pods[1].edit_version(root, root, note="n", by_admin=True)
    assert (await seen(pods[0], root)).versions[root].note == "n"


async def test_what_is_not_there(pods: list[Repos]) -> None:
    with pytest.raises(Unknown):
        await pods[0].add_log("nothing", ["x"])
    with pytest.raises(Unknown):
        await pods[0].resolve("nothing")
    root = (await pods[0].create("r", "")).root
    with pytest.raises(Unknown):
        await pods[0].edit_instance(root, "nothing", lambda found: found)


async def test_mutation_ids_are_unique(pods: list[Repos]) -> None:
    root = (await pods[0].create("r", "")).root
    taken = await asyncio.gather(*[pods[n % 2].mutation_ids(root).take() for n in range(20)])
    assert len(set(taken)) == 20
    assert min(taken) == FIRST_MUTATION_ID


async def test_a_lost_answer_does_not_repeat_a_change(
    catalog: Catalog, pods: list[Repos], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catalog that fails on the way leaves either all of a change or nothing."""
    root = (await pods[0].create("r", "")).root
    real, plan = catalog.commit, ["before", ""]

    async def commit(changes: list[Change]) -> Receipt:
        if plan and plan.pop(0) == "before":
            raise StoreUnavailable("gone")
        return await real(changes)

    monkeypatch.setattr(catalog, "commit", commit)
    with pytest.raises(StoreUnavailable):
        await pods[0].add_log(root, ["one"])
    await pods[0].add_log(root, ["two"])
    assert [line.split("  ")[1] for line in (await seen(pods[1], root)).log] == ["two"]


async def test_waiting_for_a_look_can_be_cancelled(pods: list[Repos]) -> None:
    await pods[0].create("r", "")
    looks = [asyncio.create_task(pods[0].refresh()) for _ in range(10)]
    await asyncio.sleep(0)
    for look in looks[::2]:
        look.cancel()
    answers = await asyncio.gather(*looks, return_exceptions=True)
    assert all(answer is None for answer in answers[1::2])
    await pods[0].refresh()


async def test_a_pod_knows_by_its_own_changes_what_another_one_reads(catalog: Catalog, pods: list[Repos]) -> None:
    here, there = pods
    root = (await here.create("r", "")).root
    chance = random.Random(7)
    versions = [root]
    for number in range(25):
        pod = here if chance.random() < 0.8 else there
        await pod.lock(root, versions[-1], f"note {number}", [])
        branch = f"b{number}" if chance.random() < 0.5 else None
        versions.append(await pod.add_version(root, [versions[-1]], branch=branch))
        if chance.random() < 0.3:
            instance = new_instance(root, f"data{number}")
            await pod.add_instance(root, instance)
            await pod.edit_instance(root, instance.uuid, lambda old: replace(old, tags={"a": "b"}))
        if chance.random() < 0.3:
            await pod.edit_version(root, versions[-1], note="edited", log=["line"])
        repo, fresh = await seen(here, root), (await Repos(catalog, 0.0).forest()).repos[root]
        assert repo == fresh
        assert repo.revision == fresh.revision
        assert {uuid_: list(found) for uuid_, found in repo.children.items()} == fresh.children
        for version in versions:
            mine, other = repo.line(version), fresh.line(version)
            assert (mine.versions, mine.is_locked, mine.epoch) == (other.versions, other.is_locked, other.epoch)
            assert (await here.resolve(version[:31]))[1] == fresh.versions[version]
    numbers = [repo.versions[version].number for version in versions]
    assert numbers == sorted(set(numbers))
    hidden = versions[-1]
    await here.change(root, lambda repo: _without(repo, hidden))
    assert hidden not in (await seen(here, root)).versions
    with pytest.raises(Unknown):
        await here.resolve(hidden)
    assert await seen(here, root) == (await Repos(catalog, 0.0).forest()).repos[root]


async def _without(repo: Repo, version: str) -> tuple[Repo, list[Change]]:
    return repo, [Change(f"repos/{repo.root}/versions/{version}", None)]
