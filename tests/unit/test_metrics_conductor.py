"""The conductor's figures for Prometheus: each that is known, and none that only a database knows which is away."""

from __future__ import annotations

from baa.api.conductor import Role, RoleName
from baa.conductor.metrics import metrics
from baa.engine.store import Counts
from baa.http.prometheus import text

ROLE = Role(role=RoleName.LEADER, node_id="n", leader_id="n", term=3, expires_at=None, version="1.2")
COUNTS = Counts(
    tasks={"queued": 1, "running": 2},
    attempts={"assigned": 4},
    nodes={"active": 5, "gone": 6},
    slots=7,
    paused=True,
    head=8,
    oldest=9,
)


def figures(counts: Counts | None) -> set[str]:
    page = text(metrics(ROLE, counts, subscribers=10, waits=11, refused={"wrong_host": 12}))
    return {line for line in page.splitlines() if not line.startswith("#")}


def test_every_figure_is_told_and_without_the_database_those_of_the_conductor() -> None:
    own = {
        'conductor_info{version="1.2"} 1',
        "conductor_leads 1",
        "conductor_term 3",
        "conductor_subscribers 10",
        "conductor_waits 11",
        'conductor_refused_total{code="wrong_host"} 12',
    }
    of_the_queue = {
        'conductor_tasks{state="queued"} 1',
        'conductor_tasks{state="running"} 2',
        'conductor_attempts{state="assigned"} 4',
        'conductor_nodes{state="active"} 5',
        'conductor_nodes{state="gone"} 6',
        "conductor_slots 7",
        "conductor_paused 1",
        "conductor_events_head 8",
        "conductor_events_oldest 9",
    }
    assert figures(COUNTS) == own | of_the_queue | {"conductor_engine_answers 1"}
    assert figures(None) == own | {"conductor_engine_answers 0"}
