"""What the live checks make of what came back. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from baa import config
from baa.api.endpoint import Program
from baa.http.ports import Holder
from baa.http.published import publish
from baa.http.tokens import ensure_tokens
from baa.runtime import verify
from baa.runtime.checks import Line
from baa.runtime.services import describe
from baa.runtime.verify import Answer

AT = "http://127.0.0.1:4319"
SILENT = Answer(why="nobody listens there")


def own(name: str) -> Holder:
    return Holder(told="python (pid 7)", pid=7, argv=("python", "-m", f"baa.{name.replace('-', '_')}"))


def answers(name: str, **given: Answer) -> dict[tuple[str, str], Answer]:
    told = {path: Answer(status=200, data={"status": "ok"}) for path in verify.PATHS[name]}
    return {(name, path): given.get(path.rpartition("/")[2], answer) for path, answer in told.items()}


def test_nothing_but_the_probes_of_the_contract_is_asked() -> None:
    assert verify.PATHS == {
        "conductor": ("/healthz", "/readyz", "/rolez"),
        "codexd": ("/healthz", "/v1/codexd/status"),
        "status-api": ("/healthz", "/v1/status"),
    }


@pytest.mark.parametrize("name", verify.PATHS)
def test_a_program_that_answers_has_a_line_for_each_probe(name: str) -> None:
    lines = verify.program(name, AT, answers(name), own(name))
    assert [(line.level, line.name) for line in lines] == [("ok", f"{name} {path}") for path in verify.PATHS[name]]


def test_a_program_that_is_not_on_its_port_is_one_line() -> None:
    (line,) = verify.program("codexd", AT, answers("codexd", healthz=SILENT), None)
    assert line.level == "fail"
    assert line.evidence == f"codexd is not on its port: {AT}: nobody listens there"
    assert line.cure == "baa service start --service codexd"


def test_a_port_held_by_another_program_names_it() -> None:
    (line,) = verify.program("codexd", AT, answers("codexd"), Holder(told="nginx (pid 7)", pid=7))
    assert line.level == "fail"
    assert line.evidence == f"{AT} is held by another program: nginx (pid 7)"
    assert "kill 7" in str(line.cure)
    (line,) = verify.program("codexd", AT, answers("codexd"), Holder(told="one of another user's"))
    assert line.evidence == f"{AT} is held by another program: one of another user's"
    assert "as root" in str(line.cure)


def test_a_program_that_hangs_or_is_not_ready_says_so() -> None:
    (healthz, status) = verify.program("codexd", AT, answers("codexd", healthz=Answer(why="timed out")), own("codexd"))
    assert (healthz.level, status.level) == ("fail", "ok")
    assert "timed out" in healthz.evidence
    not_ready = Answer(status=503, data={"code": "not_ready", "message": "codexd does not answer. Start it."})
    lines = verify.program("conductor", AT, answers("conductor", readyz=not_ready), own("conductor"))
    (line,) = [line for line in lines if line.level == "fail"]
    assert line.evidence.endswith("answers 503: codexd does not answer. Start it.")


@pytest.mark.parametrize(
    ("answer", "expected", "level"),
    [
        (Answer(status=200, data={"role": "leader"}), "leader", "ok"),
        (Answer(status=200, data={"role": "standby", "leaderId": "desk"}), "any", "ok"),
        (Answer(status=200, data={"role": "standby", "leaderId": "desk"}), "leader", "fail"),
        (SILENT, "leader", "fail"),
    ],
)
def test_the_role_is_what_was_expected(answer: Answer, expected: str, level: str) -> None:
    line = verify.role(answer, expected)
    assert line.level == level
    if level == "fail":
        assert line.evidence.startswith("conductor is not the leader")


def status(child: dict[str, object], logged_in: bool | None) -> Answer:
    return Answer(status=200, data={"child": child, "codex": {"loggedIn": logged_in}})


@pytest.mark.parametrize(
    ("answer", "levels"),
    [
        (status({"state": "ready", "codexVersion": "0.163.0", "problem": None}, logged_in=True), ["ok", "ok"]),
        (status({"state": "ready", "codexVersion": "0.163.0", "problem": None}, logged_in=False), ["ok", "warn"]),
        (status({"state": "starting", "codexVersion": None, "problem": None}, logged_in=None), ["warn", "ok"]),
        (
            status({"state": "unavailable", "codexVersion": None, "problem": "install it"}, logged_in=None),
            ["fail", "ok"],
        ),
        (SILENT, []),
    ],
)
def test_codexs_version_and_login(answer: Answer, levels: list[str]) -> None:
    lines = verify.codex_lines(answer)
    assert [line.level for line in lines] == levels
    if "warn" in levels[1:]:
        assert lines[1].cure == "baa login"


@pytest.mark.parametrize(
    ("support", "told"),
    [
        ("known", "version 0.163.0, ready, a release that codexd is tested with"),
        ("newer", "version 0.163.0, ready, newer than the releases that codexd is tested with"),
        ("older", "version 0.163.0, ready, not among the releases that codexd is tested with"),
        (None, "version 0.163.0, ready"),  # a codexd of old
    ],
)
def test_whether_codexd_is_tested_with_this_codex(support: str | None, told: str) -> None:
    child: dict[str, object] = {"state": "ready", "codexVersion": "0.163.0", "problem": None, "support": support}
    line, _ = verify.codex_lines(status(child, logged_in=True))
    assert (line.level, line.evidence) == ("ok", told)


@pytest.mark.parametrize(
    ("answer", "level", "told"),
    [
        (Answer(status=200, data={"nodes": [{"nodeId": "desk", "state": "active", "slots": 2}]}), "ok", "2 slots"),
        (Answer(status=200, data={"nodes": [{"nodeId": "desk", "state": "gone", "seenAt": "then"}]}), "fail", "then"),
        (Answer(status=200, data={"nodes": [{"nodeId": "lap", "state": "active"}]}), "fail", "never registered"),
        (SILENT, "fail", "nobody listens there"),
    ],
)
def test_the_worker_is_alive_in_the_conductors_table(answer: Answer, level: str, told: str) -> None:
    line = verify.worker("desk", answer)
    assert line.level == level
    assert told in line.evidence


@pytest.mark.parametrize(("free", "level"), [(499 * 1024**2, "fail"), (4 * 1024**3, "warn"), (6 * 1024**3, "ok")])
def test_disk(free: int, level: str) -> None:
    assert verify.disk(Path("/home/you"), free).level == level


def test_a_clock_that_is_before_this_release_cannot_be_right() -> None:
    assert verify.clock(datetime(1970, 1, 2, tzinfo=UTC)).level == "fail"
    assert verify.clock(datetime.now(UTC)).level == "ok"


def test_a_user_that_does_not_linger_is_told_how(tmp_path: Path) -> None:
    line = verify.lingers("you", tmp_path)
    assert (line.level, line.cure) == ("warn", "loginctl enable-linger you")
    assert line.evidence.startswith("no linger")
    (tmp_path / "you").touch()
    assert verify.lingers("you", tmp_path).level == "ok"


def test_the_python_must_be_new_enough() -> None:
    assert verify.supported((3, 10, 9)) == Line("fail", "Python", "3.10.9 is too old", "install Python 3.11 or newer")
    assert verify.supported().level == "ok"


async def test_tokens_that_must_not_be_used_are_a_line_of_the_workers_and_take_no_other_line_away(
    tmp_path: Path,
) -> None:
    home = config.load(
        Path("/dev/null"), {"BAA_HOME": str(tmp_path), "BAA_CODEXD_LOCAL_API_BASE": "http://127.0.0.1:0"}
    )
    ensure_tokens(home.tokens_dir)
    (home.tokens_dir / "read").chmod(0o644)
    publish(home.endpoint_file, "conductor", Program("http://127.0.0.1:1", 1, "cdr_x", ""))
    services = describe(home, ("codexd", "worker-runner"), python=Path("/bin/python"), environ={})
    codexd, worker = await verify.live_checks(home, services)
    assert (codexd.level, codexd.name) == ("fail", "codexd port")
    assert (worker.level, worker.name) == ("fail", "worker-runner")
    assert "has mode 0644" in worker.evidence
