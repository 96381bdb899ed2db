"""How much power an agent may have: sandbox, network, approval policies and models, also in sessions of before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from baa.api.errors import Code, Rejected
from baa.api.sessions import ApprovalPolicy, CreateSession, Sandbox, SessionSettings, StartTurn, TurnRequest
from baa.codexd.machines.inputs import HandTurn
from baa.codexd.policy import Policy
from baa.config_file import Ceiling
from tests.support.faults import saw
from tests.support.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path.resolve())


POWERS = list(Sandbox)


@pytest.mark.parametrize("ceiling", POWERS)
@pytest.mark.parametrize("asked", POWERS)
def test_a_request_gets_the_power_that_it_asks_for_up_to_the_ceiling(
    home: Home, ceiling: Sandbox, asked: Sandbox
) -> None:
    policy = Policy(sandbox=ceiling, roots=(home.path,), private=())
    request = CreateSession(cwd=str(home.project), sandbox=asked)

    if POWERS.index(asked) <= POWERS.index(ceiling):
        assert policy.settings(request, request.cwd or "").sandbox is asked
    else:
        with pytest.raises(Rejected) as caught:
            policy.settings(request, request.cwd or "")
        assert (caught.value.code, caught.value.details) == (
            Code.POLICY_CEILING,
            {"field": "sandbox", "ceiling": ceiling.value},
        )
        saw("F89", caught.value.status == 403, "more power than the ceiling was asked for")


@pytest.mark.parametrize(
    ("ceiling", "given"),
    [
        (Sandbox.READ_ONLY, Sandbox.READ_ONLY),
        (Sandbox.WORKSPACE_WRITE, Sandbox.WORKSPACE_WRITE),
        (Sandbox.DANGER_FULL_ACCESS, Sandbox.WORKSPACE_WRITE),
    ],
)
def test_full_access_is_never_a_default(home: Home, ceiling: Sandbox, given: Sandbox) -> None:
    policy = Policy(sandbox=ceiling, roots=(home.path,), private=())

    assert policy.settings(CreateSession(), str(home.project)) == SessionSettings(
        cwd=str(home.project), sandbox=given, approval_policy=ApprovalPolicy.NEVER
    )


POLICIES = list(ApprovalPolicy)


def _narrow(home: Home) -> Policy:
    return Policy(
        sandbox=Sandbox.WORKSPACE_WRITE,
        roots=(home.path,),
        private=(),
        approval=(ApprovalPolicy.UNTRUSTED, ApprovalPolicy.ON_REQUEST),
        models=("small", "large"),
    )


@pytest.mark.parametrize("asked", [None, *POLICIES])
@pytest.mark.parametrize("model", [None, "small", "large", "other", ""])
def test_policies_and_models_are_those_of_the_ceiling_also_for_sessions_of_before(
    home: Home, asked: ApprovalPolicy | None, model: str | None
) -> None:
    policy = _narrow(home)
    wide = Policy(sandbox=Sandbox.WORKSPACE_WRITE, roots=(home.path,), private=())
    session = CreateSession(approval_policy=asked, model=model)
    turn = StartTurn(session_id="ses", prompt="p", approval_policy=asked, model=model)
    before = wide.settings(session, str(home.project))
    above = [
        *(["approvalPolicy"] if asked is ApprovalPolicy.NEVER else []),
        *(["model"] if model == "other" else []),
    ]

    def refused(call: Callable[[], object], fields: list[str]) -> None:
        if not fields:
            call()
            return
        with pytest.raises(Rejected) as caught:
            call()
        assert (caught.value.code, caught.value.details["field"]) == (Code.POLICY_CEILING, fields[0])

    refused(lambda: policy.settings(session, str(home.project)), above)
    refused(lambda: policy.request(turn), above if model != "" else [*above, "model"])
    old = [
        *(["approvalPolicy"] if before.approval_policy is ApprovalPolicy.NEVER else []),
        *(["model"] if before.model == "other" else []),
    ]
    refused(lambda: policy.go_on(before), old)
    refused(lambda: policy.fork(before), old)
    if not old:
        assert policy.fork(before) == msgspec.structs.replace(before, model=before.model or "small")
    opened = policy.opened(before)  # Codex keeps it until a turn says otherwise
    assert (opened.approval_policy in policy.approval, opened.model) == (
        True,
        before.model if before.model in policy.models else "small",
    )
    mended = StartTurn(session_id="ses", prompt="p", approval_policy=ApprovalPolicy.UNTRUSTED, model="large")
    policy.go_on(before, mended)


NETWORKS = (None, False, True)


@pytest.mark.parametrize("ceiling", [False, True])
@pytest.mark.parametrize("sandbox", POWERS)
@pytest.mark.parametrize("asked", NETWORKS)
def test_a_network_is_off_unless_it_is_asked_for_and_the_ceiling_has_one(
    home: Home, ceiling: bool, sandbox: Sandbox, asked: bool | None
) -> None:
    policy = Policy(Sandbox.DANGER_FULL_ACCESS, (home.path,), (), network=ceiling)
    wide = Policy(Sandbox.DANGER_FULL_ACCESS, (home.path,), (), network=True)
    request = CreateSession(sandbox=sandbox, network_access=asked)
    turn = StartTurn(session_id="ses", prompt="p", sandbox=sandbox, network_access=asked)
    registered = wide.settings(CreateSession(sandbox=Sandbox.WORKSPACE_WRITE), str(home.project))

    def in_session() -> TurnRequest:
        policy.go_on(registered, turn)
        return policy.request(turn)

    def outcome(call: Callable[[], object]) -> tuple[Code, object] | None:
        try:
            call()
        except Rejected as rejected:
            return rejected.code, rejected.details["field"]
        return None

    wanted = None
    if asked and not ceiling:
        wanted = (Code.POLICY_CEILING, "networkAccess")
    elif (asked is True and sandbox is Sandbox.READ_ONLY) or (asked is False and sandbox is POWERS[-1]):
        wanted = (Code.INVALID_REQUEST, "networkAccess")
    assert outcome(lambda: policy.settings(request, str(home.project))) == wanted
    assert outcome(in_session) == wanted
    if wanted is None:
        assert policy.settings(request, str(home.project)).network_access is bool(asked)
        assert policy.request(turn).network_access is asked


@pytest.mark.parametrize("asked", NETWORKS)
@pytest.mark.parametrize("sandbox", [None, *POWERS])
def test_a_session_with_a_network_of_before_has_none_any_more(
    home: Home, sandbox: Sandbox | None, asked: bool | None
) -> None:
    """A turn in it may say that it wants none, or take a sandbox that the network does not come with."""
    wide = Policy(Sandbox.DANGER_FULL_ACCESS, (home.path,), (), network=True)
    narrow = Policy(Sandbox.DANGER_FULL_ACCESS, (home.path,), ())
    before = wide.settings(CreateSession(network_access=True), str(home.project))
    turn = StartTurn(session_id="ses", prompt="p", sandbox=sandbox, network_access=asked)
    refused = asked or (asked is None and sandbox in (None, Sandbox.WORKSPACE_WRITE))
    if refused or (asked is False and sandbox is Sandbox.DANGER_FULL_ACCESS):
        with pytest.raises(Rejected) as caught:
            narrow.go_on(before, turn)
        assert caught.value.details["field"] == "networkAccess"
        assert (caught.value.code is Code.POLICY_CEILING) is bool(refused)
    else:
        narrow.go_on(before, turn)
    assert (before.network_access, narrow.opened(before).network_access) == (True, False)


@pytest.mark.parametrize("ceiling", POWERS)
@pytest.mark.parametrize("registered", POWERS)
def test_codex_opens_a_thread_with_no_more_than_the_ceiling_of_now(
    home: Home, ceiling: Sandbox, registered: Sandbox
) -> None:
    wide = Policy(Sandbox.DANGER_FULL_ACCESS, (home.path,), ())
    before = wide.settings(CreateSession(sandbox=registered), str(home.project))
    opened = Policy(ceiling, (home.path,), ()).opened(before)
    assert opened == msgspec.structs.replace(before, sandbox=min(ceiling, registered, key=POWERS.index))
    with pytest.raises(Rejected, match="outside the folders"):
        Policy(ceiling, (home.beside,), ()).opened(before)


@pytest.mark.parametrize("named", [None, "small", "other"])
@pytest.mark.parametrize("codexs", ["small", "other"])
def test_a_turn_that_waited_is_handed_over_under_the_ceiling_of_now(home: Home, named: str | None, codexs: str) -> None:
    """`codexs` is what Codex would take where nobody named a model."""
    policy = _narrow(home)
    wide = Policy(Sandbox.WORKSPACE_WRITE, (home.path,), ())
    settings = wide.settings(CreateSession(approval_policy=ApprovalPolicy.UNTRUSTED), str(home.project))
    request = TurnRequest(prompt="p", model=named)
    hand = HandTurn("trn", "thread", request, settings, named or codexs, None)
    if named == "other":
        with pytest.raises(Rejected) as caught:
            policy.handed(hand)
        assert caught.value.details["field"] == "model"
    else:
        assert policy.handed(hand) == msgspec.structs.replace(hand, model=named or "small")
    with pytest.raises(Rejected) as caught:
        policy.handed(
            msgspec.structs.replace(hand, request=TurnRequest(prompt="p", sandbox=Sandbox.DANGER_FULL_ACCESS))
        )
    assert caught.value.details["field"] == "sandbox"


@pytest.mark.parametrize("approval", [[], ["always"]])
def test_a_ceiling_that_allows_no_policy_or_an_unknown_one_is_refused(approval: list[str]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"approval": approval}, Ceiling)


def test_where_nothing_is_asked_for_the_ceilings_first_is_taken(home: Home) -> None:
    narrow = _narrow(home).settings(CreateSession(), str(home.project))
    assert (narrow.approval_policy, narrow.model) == (ApprovalPolicy.UNTRUSTED, "small")
    wide = Policy(sandbox=Sandbox.READ_ONLY, roots=(home.path,), private=())
    usual = wide.settings(CreateSession(), str(home.project))
    assert (usual.approval_policy, usual.model) == (ApprovalPolicy.NEVER, None)
