"""Which task runs where next: every small world, and what must hold in any."""

from __future__ import annotations

from collections import Counter
from itertools import product

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from baa.api.tasks import TaskState
from baa.conductor.scheduler import BROKEN, DEPENDENCY_FAILED, Assign, Fail, decide
from baa.engine.waiting import FreeNode, Waiting, WaitingTask

NODES = ("a", "b", "c")


def task(
    task_id: str,
    priority: int = 0,
    *needs: TaskState,
    node: str | None = None,
    last_node: str | None = None,
) -> WaitingTask:
    dependencies = {f"need-{number}": state for number, state in enumerate(needs)}
    return WaitingTask(task_id=task_id, priority=priority, dependencies=dependencies, node=node, last_node=last_node)


def decided(*tasks: WaitingTask, paused: bool = False, **free: int) -> list[tuple[str, str]]:
    nodes = [FreeNode(node_id=node_id, free=slots) for node_id, slots in free.items()]
    decisions = decide(Waiting(tasks=list(tasks), nodes=nodes, paused=paused))
    return [
        (each.task_id, each.node_id) if isinstance(each, Assign) else (each.task_id, each.reason) for each in decisions
    ]


def test_the_higher_priority_goes_first_and_then_the_older() -> None:
    tasks = task("t3", 5), task("t1"), task("t2"), task("t0", -1)
    assert decided(*tasks, a=3) == [("t3", "a"), ("t1", "a"), ("t2", "a")]


def test_a_task_that_waits_for_its_own_node_holds_up_no_other() -> None:
    assert decided(task("t1", 9, node="b"), task("t2"), a=1) == [("t2", "a")]
    assert decided(task("t1", 9, node="b"), task("t2", 9, node="a"), a=1, b=1) == [("t1", "b"), ("t2", "a")]


def test_it_goes_on_where_its_worktree_is_if_there_is_a_slot_and_else_anywhere() -> None:
    assert decided(task("t1", last_node="b"), a=5, b=1) == [("t1", "b")]
    assert decided(task("t1", last_node="b"), a=1) == [("t1", "a")]
    assert decided(task("t1", node="a", last_node="b"), a=1, b=1) == [("t1", "a")]


def test_what_may_run_anywhere_leaves_room_for_what_may_not() -> None:
    assert decided(task("t1", 9), task("t2", node="a"), a=1, b=1) == [("t1", "b"), ("t2", "a")]
    assert decided(task("t1", 9), task("t2", last_node="a"), a=1, b=1) == [("t1", "b"), ("t2", "a")]
    assert decided(task("t1", 9), task("t2", node="a"), a=1) == [("t1", "a")], "but priority decides about the last"


def test_tasks_spread_over_the_nodes() -> None:
    assert decided(task("t1"), task("t2"), task("t3"), a=2, b=2) == [("t1", "a"), ("t2", "b"), ("t3", "a")]


def test_each_state_of_a_dependency() -> None:
    """All that one, two or three dependencies can be."""
    for count in (0, 1, 2, 3):
        for states in product(TaskState, repeat=count):
            if BROKEN & set(states):
                expected = [("t", DEPENDENCY_FAILED)]
            elif set(states) <= {TaskState.SUCCEEDED}:
                expected = [("t", "a")]
            else:
                expected = []
            assert decided(task("t", 0, *states), a=1) == expected, states


def test_a_pause_starts_nothing_and_still_tells_what_can_never_run() -> None:
    assert decided(task("t1"), task("t2", 0, TaskState.FAILED), paused=True, a=2) == [("t2", DEPENDENCY_FAILED)]


def test_every_small_world_is_as_a_plain_account_has_it() -> None:
    """Two tasks and two nodes: each priority, place and number of slots that they can have."""
    places = tuple(product((None, "a", "b"), repeat=2))
    for first, second in product(places, repeat=2):
        for priority, free_a, free_b in product((0, 1), (0, 1, 2), (0, 1, 2)):
            tasks = [
                task("t1", 0, node=first[0], last_node=first[1]),
                task("t2", priority, node=second[0], last_node=second[1]),
            ]
            free = {"a": free_a, "b": free_b}
            taken = dict(decided(*tasks, a=free_a, b=free_b))
            room = dict(free)
            for each in sorted(tasks, key=lambda each: (-each.priority, each.task_id)):
                may = [node_id for node_id in "ab" if room[node_id] > 0 and each.node in (None, node_id)]
                assert (each.task_id in taken) == bool(may)
                if may:
                    where = taken[each.task_id]
                    assert where in may
                    assert each.last_node not in may or where == each.last_node
                    room[where] -= 1


WORLDS = st.builds(
    Waiting,
    tasks=st.lists(
        st.builds(
            WaitingTask,
            task_id=st.text("0123456789", min_size=1, max_size=3),
            priority=st.integers(-1000, 1000) | st.sampled_from([0, 1]),
            dependencies=st.dictionaries(st.sampled_from("xyz"), st.sampled_from(TaskState), max_size=3),
            node=st.none() | st.sampled_from(NODES),
            last_node=st.none() | st.sampled_from(NODES),
        ),
        unique_by=lambda each: each.task_id,
        max_size=12,
    ),
    nodes=st.lists(
        st.builds(FreeNode, node_id=st.sampled_from(NODES), free=st.integers(1, 4)),
        unique_by=lambda each: each.node_id,
    ),
    paused=st.booleans(),
)


@given(WORLDS)
def test_what_holds_in_any_world(world: Waiting) -> None:
    decisions = decide(world)
    about = [each.task_id for each in decisions]
    assert len(about) == len(set(about)), "nothing is decided twice"
    tasks = {each.task_id: each for each in world.tasks}
    failed = {each.task_id for each in decisions if isinstance(each, Fail)}
    assert failed == {each.task_id for each in world.tasks if BROKEN & set(each.dependencies.values())}
    given_ = [each for each in decisions if isinstance(each, Assign)]
    assert not (world.paused and given_)
    free = {each.node_id: each.free for each in world.nodes}
    used = Counter(each.node_id for each in given_)
    assert all(used[node_id] <= free.get(node_id, 0) for node_id in used)
    for each in given_:
        assert set(tasks[each.task_id].dependencies.values()) <= {TaskState.SUCCEEDED}
        assert tasks[each.task_id].node in (None, each.node_id)
    ranks = [(-tasks[each.task_id].priority, each.task_id) for each in given_]
    assert ranks == sorted(ranks)
    if world.paused:
        return
    where = {each.task_id: each.node_id for each in given_}
    for left in world.tasks:
        if left.task_id not in where and set(left.dependencies.values()) <= {TaskState.SUCCEEDED}:
            may = set(free) if left.node is None else {left.node} & set(free)
            assert all(used[node_id] == free[node_id] for node_id in may), "a slot is left for what could have it"
            later = [key for key in where if (-tasks[key].priority, key) > (-left.priority, left.task_id)]
            assert not [key for key in later if where[key] in may], "one of a lower rank has its slot"


@given(WORLDS, st.randoms(use_true_random=False))
def test_the_order_in_which_they_come_changes_nothing(world: Waiting, chance: object) -> None:
    tasks, nodes = list(world.tasks), list(world.nodes)
    chance.shuffle(tasks)  # type: ignore[attr-defined]
    chance.shuffle(nodes)  # type: ignore[attr-defined]
    assert decide(msgspec.structs.replace(world, tasks=tasks, nodes=nodes)) == decide(world)
