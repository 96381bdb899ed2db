"""Configuration: the file, the variables over it, and every mistake told with its place."""

from __future__ import annotations

from pathlib import Path

import msgspec
import platformdirs
import pytest

from baa.api.errors import EX_CONFIG, CannotStart
from baa.api.sessions import Sandbox
from baa.config import Address, Config, load, loopback_address, private_address, variables
from baa.config_file import Ceiling
from tests.support.faults import saw


def settings_of(config: Config) -> Config:
    return msgspec.structs.replace(config, config_file=None)


DEFAULT = Config(
    home=Path("/home/user/baa"),
    node_id="here",
    engine_url="sqlite:///home/user/baa/state/engine.sqlite3",
    control_api_base="",
    conductor_address=Address("127.0.0.1", 4317),
    status_api_address=Address("127.0.0.1", 4318),
    worker_slots=2,
    node_ttl_ms=15_000,
    worker_worktrees="~/baa-worktrees",
    worker_embedded=True,
    history_ms=30 * 86_400_000,
    worker_drain_ms=0,
    address=Address("127.0.0.1", 4319),
    allowed_hosts=(),
    event_stream_path="/v1/codexd/events",
    state_dir=Path("/home/user/baa/state/codexd"),
    logs_dir=Path("/home/user/baa/logs/codexd"),
    codex_home=Path("/home/user/baa/state/codexd/codex-home"),
    server_command="codex",
    server_args=("app-server",),
    orphan_ms=600_000,
    drain_ms=0,
    idle_ms=60_000,
    interaction_deadline_ms=900_000,
    log_age_ms=30 * 24 * 3_600_000,
    log_delta_ms=24 * 3_600_000,
    log_bytes=2 << 30,
    answer_ms=60_000,
    watch_ms=10_000,
    child_soft_mib=1024,
    child_hard_mib=4096,
    connections=256,
    ceiling=Ceiling(sandbox=Sandbox.WORKSPACE_WRITE, roots=("~",)),
)
HOME = {"BAA_HOME": "/home/user/baa", "BAA_NODE_ID": "here"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "baa.toml"


@pytest.fixture(autouse=True)
def nobodys_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the person who runs these tests has configured is not theirs."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def changed(**fields: object) -> Config:
    return msgspec.structs.replace(DEFAULT, **fields)


# --- the defaults, the file, the variables


def test_without_a_file_the_defaults_hold() -> None:
    assert settings_of(load(environ=HOME)) == DEFAULT


def test_what_programs_share_lies_in_the_state_folder_of_the_home() -> None:
    assert DEFAULT.endpoint_file == Path("/home/user/baa/state/endpoint.json")
    assert DEFAULT.tokens_dir == Path("/home/user/baa/state/tokens")


WHOLE = """\
home = "/home/user/other"
node_id = "node-1"
engine_url = "sqlite:////var/lib/baa/engine.sqlite3"
control_api_base = "https://control.example.net:8443/api"
allowed_hosts = ["node.example.ts.net"]

[codexd]
local_api_base = "http://127.0.0.1:0"
event_stream_path = "/events"
state_dir = "s"
logs_dir = "/var/log/baa"
codex_home = "~/codex"
server_command = "/opt/codex"
server_args = ["app-server", "-c", "a=1"]
orphan_ms = 1
drain_ms = 2
idle_ms = 3
interaction_deadline_ms = 4
log_age_ms = 5
log_delta_ms = 6
log_bytes = 7
answer_ms = 8
watch_ms = 5
child_soft_mib = 6
child_hard_mib = 7
connections = 7

[conductor]
local_api_base = "http://127.0.0.1:17"
history_ms = 9

[status_api]
base = "http://100.100.1.2:18"

[worker]
slots = 5
node_ttl_ms = 20_000
worktrees = "/srv/trees"
embedded = false
drain_ms = 8

[ceiling]
sandbox = "danger-full-access"
roots = ["~/work", "/srv"]
"""
OF_WHOLE = Config(
    home=Path("/home/user/other"),
    node_id="node-1",
    engine_url="sqlite:///var/lib/baa/engine.sqlite3",
    control_api_base="https://control.example.net:8443/api",
    conductor_address=Address("127.0.0.1", 17),
    status_api_address=Address("100.100.1.2", 18),
    worker_slots=5,
    node_ttl_ms=20_000,
    worker_worktrees="/srv/trees",
    worker_embedded=False,
    history_ms=9,
    worker_drain_ms=8,
    address=Address("127.0.0.1", 0),
    allowed_hosts=("node.example.ts.net",),
    event_stream_path="/events",
    state_dir=Path("/home/user/other/s"),
    logs_dir=Path("/var/log/baa"),
    codex_home=Path("~/codex"),
    server_command="/opt/codex",
    server_args=("app-server", "-c", "a=1"),
    orphan_ms=1,
    drain_ms=2,
    idle_ms=3,
    interaction_deadline_ms=4,
    log_age_ms=5,
    log_delta_ms=6,
    log_bytes=7,
    answer_ms=8,
    watch_ms=5,
    child_soft_mib=6,
    child_hard_mib=7,
    connections=7,
    ceiling=Ceiling(sandbox=Sandbox.DANGER_FULL_ACCESS, roots=("~/work", "/srv")),
)


def test_every_key_of_the_file_is_used(file: Path) -> None:
    file.write_text(WHOLE)

    assert settings_of(load(file, {})) == msgspec.structs.replace(OF_WHOLE, codex_home=Path("~/codex").expanduser())


VARIABLES: list[tuple[str, str, str, object]] = [
    ("BAA_CODEXD_LOCAL_API_BASE", "http://localhost:7", "address", Address("127.0.0.1", 7)),
    ("BAA_CODEXD_EVENT_STREAM_PATH", "/e", "event_stream_path", "/e"),
    ("BAA_CODEXD_STATE_DIR", "/s", "state_dir", Path("/s")),
    ("BAA_CODEXD_STATE_DIR", "s/t", "state_dir", Path("/home/user/baa/s/t")),
    ("BAA_CODEXD_LOGS_DIR", "l", "logs_dir", Path("/home/user/baa/l")),
    ("BAA_CODEXD_CODEX_HOME", "c", "codex_home", Path("/home/user/baa/c")),
    ("BAA_CODEXD_SERVER_COMMAND", "other codex", "server_command", "other codex"),
    ("BAA_CODEXD_SERVER_ARGS", '["app-server", "-c", "a b"]', "server_args", ("app-server", "-c", "a b")),
    ("BAA_CODEXD_SERVER_ARGS", "app-server -c 'a b'", "server_args", ("app-server", "-c", "a b")),
    ("BAA_CODEXD_SERVER_ARGS", "[]", "server_args", ()),
    ("BAA_CODEXD_ORPHAN_MS", "5", "orphan_ms", 5),
    ("BAA_CODEXD_DRAIN_MS", "30000", "drain_ms", 30_000),
    ("BAA_CODEXD_IDLE_MS", "3", "idle_ms", 3),
    ("BAA_CODEXD_INTERACTION_DEADLINE_MS", "4", "interaction_deadline_ms", 4),
    ("BAA_CODEXD_LOG_AGE_MS", "5", "log_age_ms", 5),
    ("BAA_CODEXD_LOG_DELTA_MS", "6", "log_delta_ms", 6),
    ("BAA_CODEXD_LOG_BYTES", "7", "log_bytes", 7),
    ("BAA_CODEXD_ANSWER_MS", "8", "answer_ms", 8),
    ("BAA_CODEXD_WATCH_MS", "5", "watch_ms", 5),
    ("BAA_CODEXD_CHILD_SOFT_MIB", "0", "child_soft_mib", 0),
    ("BAA_CODEXD_CHILD_HARD_MIB", "7", "child_hard_mib", 7),
    ("BAA_CODEXD_CONNECTIONS", "7", "connections", 7),
    ("BAA_HOME", "/home/user/baa", "home", Path("/home/user/baa")),
    ("BAA_NODE_ID", "a.b_c-1", "node_id", "a.b_c-1"),
    ("BAA_ENGINE_URL", "sqlite:///srv/e.sqlite3", "engine_url", "sqlite:///srv/e.sqlite3"),
    ("BAA_ENGINE_URL", "sqlite:////srv/e.sqlite3", "engine_url", "sqlite:///srv/e.sqlite3"),
    ("BAA_ENGINE_URL", "postgresql://me:secret@db:1/baa", "engine_url", "postgresql://me:secret@db:1/baa"),
    ("BAA_WORKER_NODE_TTL_MS", "2000", "node_ttl_ms", 2000),
    ("BAA_CONTROL_API_BASE", "http://control:80", "control_api_base", "http://control:80"),
    ("BAA_CONDUCTOR_LOCAL_API_BASE", "http://[::1]:0", "conductor_address", Address("::1", 0)),
    ("BAA_CONDUCTOR_HISTORY_MS", "0", "history_ms", 0),
    ("BAA_STATUS_API_BASE", "http://192.168.1.2:3", "status_api_address", Address("192.168.1.2", 3)),
    ("BAA_WORKER_SLOTS", "1", "worker_slots", 1),
    ("BAA_WORKER_WORKTREES", "~/trees", "worker_worktrees", "~/trees"),
    ("BAA_WORKER_EMBEDDED", "False", "worker_embedded", False),
    ("BAA_WORKER_EMBEDDED", "1", "worker_embedded", True),
    ("BAA_WORKER_DRAIN_MS", "30000", "worker_drain_ms", 30_000),
]


@pytest.mark.parametrize(("name", "value", "field", "meant"), VARIABLES)
def test_a_variable_wins_over_the_file(file: Path, name: str, value: str, field: str, meant: object) -> None:
    file.write_text('[codexd]\nlocal_api_base = "http://127.0.0.1:1"\nstate_dir = "file"\norphan_ms = 77\n')
    of_file = changed(address=Address("127.0.0.1", 1), state_dir=Path("/home/user/baa/file"), orphan_ms=77)

    assert settings_of(load(file, HOME | {name: value})) == msgspec.structs.replace(of_file, **{field: meant})


@pytest.mark.parametrize("name", sorted({name for name, *_ in VARIABLES} | {"BAA_CONFIG"}))
def test_an_empty_variable_counts_as_not_set(name: str) -> None:
    environ = HOME | {name: ""}
    expected = DEFAULT
    if name in ("BAA_HOME", "BAA_NODE_ID"):
        expected = load(environ={key: value for key, value in HOME.items() if key != name})

    assert settings_of(load(environ=environ)) == msgspec.structs.replace(expected, config_file=None)


def test_without_a_home_ours_is_the_platforms_data_folder() -> None:
    assert load(environ={}).home == platformdirs.user_data_path("baa-conductor", appauthor=False)


# --- which file


def test_the_file_named_on_the_command_line_wins_over_the_one_in_the_variable(tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text('home = "/one"')
    other.write_text('home = "/other"')

    assert load(one, {"BAA_CONFIG": str(other)}).home == Path("/one")
    assert load(one, {"BAA_CONFIG": str(other)}).config_file == one
    assert load(None, {"BAA_CONFIG": str(other)}).home == Path("/other")


def test_the_users_own_file_is_read_and_never_one_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = platformdirs.user_config_path("baa-conductor", appauthor=False)
    clone = tmp_path / "cloned repository"
    for made, home in ((folder, "/mine"), (clone, "/theirs")):
        made.mkdir(parents=True)
        (made / "baa.toml").write_text(f'home = "{home}"')
    monkeypatch.chdir(clone)

    assert load(environ={}).home == Path("/mine")


@pytest.mark.parametrize("named", ["command line", "variable"])
def test_a_file_that_was_named_must_be_there(file: Path, named: str) -> None:
    with pytest.raises(CannotStart, match=f"The configuration file {file} does not exist") as caught:
        load(file if named == "command line" else None, {"BAA_CONFIG": str(file)})

    assert caught.value.exit_code == EX_CONFIG


# --- mistakes


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("homes = 1", "unknown field `homes`"),
        ("[codexd]\nstate = 1", r"unknown field `state` - at `\$.codexd`"),
        ("[ceiling]\nroot = []", r"unknown field `root` - at `\$.ceiling`"),
        ("[conductors]\n", "unknown field `conductors`"),
        ("[conductor]\nport = 1", r"unknown field `port` - at `\$.conductor`"),
        ("[status_api]\nlocal_api_base = ''", r"unknown field `local_api_base` - at `\$.status_api`"),
        ("[worker]\nslots = '2'", r"\$.worker.slots"),
        ("[codexd]\norphan_ms = '5'", r"\$.codexd.orphan_ms"),
        ("[codexd]\nserver_args = 'app-server'", r"\$.codexd.server_args"),
        ("[codexd]\nserver_args = [1]", r"\$.codexd.server_args\[0\]"),
        ("[ceiling]\nsandbox = 'none'", r"\$.ceiling.sandbox"),
        ("home = 1", r"\$.home"),
        ("home = = 1", "line 1, column 8"),
        ("codexd = 1", r"\$.codexd"),
        ("home = 'a'\nhome = 'b'", "Cannot overwrite"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    with pytest.raises(CannotStart, match=told) as caught:
        load(file, HOME)

    assert (caught.value.exit_code, str(file) in caught.value.message) == (EX_CONFIG, True)
    saw("F90", caught.value.exit_code == EX_CONFIG, "a configuration file had a mistake, and its place was told")


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_told(file: Path, content: bytes | None) -> None:
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(CannotStart, match=f"The configuration file {file} cannot be read"):
        load(file, HOME)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BAA_CODEXD_ORPHAN_MS", "soon"),
        ("BAA_CODEXD_ORPHAN_MS", "1.5"),
        ("BAA_CODEXD_DRAIN_MS", "1e3"),
        ("BAA_WORKER_SLOTS", "many"),
        ("BAA_CODEXD_SERVER_ARGS", "[1]"),
        ("BAA_CODEXD_SERVER_ARGS", "['app-server']"),
        ("BAA_CODEXD_SERVER_ARGS", "[] and more"),
        ("BAA_CODEXD_SERVER_ARGS", "an 'open quote"),
    ],
)
def test_a_mistake_in_a_variable_is_told_with_its_name(name: str, value: str) -> None:
    with pytest.raises(CannotStart, match=f"{name} cannot be") as caught:
        load(environ=HOME | {name: value})

    assert caught.value.exit_code == EX_CONFIG


PATHS = ["events", "/events/", "/", "//events", "/{events}", "/a b", "/a?b", "/a#b", "/%2e", "/é", "http://127.0.0.1/e"]


@pytest.mark.parametrize("path", PATHS)
def test_an_event_stream_path_must_be_one(path: str) -> None:
    with pytest.raises(CannotStart, match="event_stream_path must be a path"):
        load(environ=HOME | {"BAA_CODEXD_EVENT_STREAM_PATH": path})


def test_a_question_cannot_wait_for_ever() -> None:
    with pytest.raises(CannotStart, match="cannot wait for ever"):
        load(environ=HOME | {"BAA_CODEXD_INTERACTION_DEADLINE_MS": "0"})


# --- where codexd may listen


@pytest.mark.parametrize(
    ("base", "address"),
    [
        ("http://127.0.0.1:4319", Address("127.0.0.1", 4319)),
        ("http://127.0.0.1:4319/", Address("127.0.0.1", 4319)),
        ("http://127.0.0.1:0", Address("127.0.0.1", 0)),
        ("http://127.0.0.1:65535", Address("127.0.0.1", 65535)),
        ("http://127.8.9.10:80", Address("127.8.9.10", 80)),
        ("http://localhost:80", Address("127.0.0.1", 80)),
        ("HTTP://LocalHost:80", Address("127.0.0.1", 80)),
        ("http://[::1]:80", Address("::1", 80)),
    ],
)
def test_plain_http_on_a_loopback_address_is_taken(base: str, address: Address) -> None:
    assert loopback_address(base, "BAA_X") == address


@pytest.mark.parametrize(
    "base",
    [
        "",
        "127.0.0.1:4319",
        "localhost:4319",
        "//127.0.0.1:4319",
        "http://127.0.0.1",
        "http://127.0.0.1:",
        "http://127.0.0.1:port",
        "http://127.0.0.1:-1",
        "http://127.0.0.1:65536",
        "http://0.0.0.0:4319",
        "http://[::]:4319",
        "http://10.0.0.1:4319",
        "http://100.64.0.1:4319",
        "http://169.254.169.254:80",
        "http://[fe80::1]:80",
        "http://127.1:80",
        "http://2130706433:80",
        "http://0x7f000001:80",
        "http://127.0.0.1.example.com:80",
        "http://localhost.example.com:80",
        "http://example.com:80",
        "http://node.local:80",
        "http://:80",
        "http://[::1:80",
        "https://127.0.0.1:4319",
        "ws://127.0.0.1:4319",
        "unix:///run/baa.sock",
        "http://user@127.0.0.1:80",
        "http://user:secret@127.0.0.1:80",
        "http://@127.0.0.1:80",
        "http://127.0.0.1:80@example.com",
        "http://example.com:80@127.0.0.1",
        "http://127.0.0.1:80/v1",
        "http://127.0.0.1:80//",
        "http://127.0.0.1:80?x=1",
        "http://127.0.0.1:80#x",
        "http://127.0.0.1\\@example.com:80",
    ],
)
def test_any_other_address_is_refused_with_the_name_of_the_setting(base: str) -> None:
    with pytest.raises(CannotStart, match=r"BAA_X must be http://127\.0\.0\.1:PORT") as caught:
        loopback_address(base, "BAA_X")

    assert caught.value.exit_code == EX_CONFIG


# --- the node, its engine and its other programs


def test_every_setting_has_a_variable_that_was_tried() -> None:
    assert sorted(variables()) == sorted({name for name, *_ in VARIABLES} | {"BAA_CONFIG"})
    assert len(set(variables())) == len(variables())


def test_without_a_name_the_node_has_the_machines() -> None:
    found = load(environ={"BAA_HOME": "/home/user/baa"}).node_id

    assert load(environ=HOME | {"BAA_NODE_ID": found}).node_id == found


@pytest.mark.parametrize("node_id", ["A", "-a", "a-", ".a", "a b", "a/b", "a\n", "é", "a" * 64])
def test_a_name_of_a_node_that_cannot_be_is_refused(node_id: str) -> None:
    with pytest.raises(CannotStart, match="BAA_NODE_ID must be 1 to 63 of"):
        load(environ=HOME | {"BAA_NODE_ID": node_id})


@pytest.mark.parametrize("node_id", ["a", "1", "a" * 63, "mac-mini.local"])
def test_a_name_of_a_node_is_taken_as_it_is(node_id: str) -> None:
    assert load(environ=HOME | {"BAA_NODE_ID": node_id}).node_id == node_id


@pytest.mark.parametrize("base", ["control:80", "ftp://control", "http://", "http://a b", "http://a:0", "http://a:x"])
def test_a_control_api_base_must_be_an_address(base: str) -> None:
    with pytest.raises(CannotStart, match="BAA_CONTROL_API_BASE must be an http"):
        load(environ=HOME | {"BAA_CONTROL_API_BASE": base})


def test_the_conductor_is_on_loopback_only() -> None:
    with pytest.raises(CannotStart, match="BAA_CONDUCTOR_LOCAL_API_BASE must be"):
        load(environ=HOME | {"BAA_CONDUCTOR_LOCAL_API_BASE": "http://10.0.0.1:4317"})


def test_each_program_has_a_folder_for_its_log_and_codexd_the_one_that_is_set() -> None:
    chosen = changed(logs_dir=Path("/var/log/baa"))

    assert chosen.logs_of("codexd") == Path("/var/log/baa")
    assert chosen.logs_of("status-api") == Path("/home/user/baa/logs/status-api")


def test_a_stop_may_take_the_drain_and_both_ladders() -> None:
    assert DEFAULT.stop_seconds == 25
    assert changed(drain_ms=30_000).stop_seconds == 55


PRIVATE = ["127.0.0.1", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1"]
PRIVATE += ["100.127.255.255", "[::1]", "[fc00::1]", "[fd7a:115c:a1e0::1]"]


@pytest.mark.parametrize("host", PRIVATE)
def test_status_api_may_be_seen_in_a_private_network(host: str) -> None:
    assert private_address(f"http://{host}:4318", "BAA_X") == Address(host.strip("[]"), 4318)


PUBLIC = ["0.0.0.0", "[::]", "1.1.1.1", "9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.0.1"]
PUBLIC += ["192.169.0.0", "100.63.255.255", "100.128.0.0", "169.254.0.1", "255.255.255.255", "224.0.0.1", "[fe80::1]"]
PUBLIC += ["[2001:db8::1]", "[::ffff:10.0.0.1]", "status.example.net", "10.1"]


@pytest.mark.parametrize("host", PUBLIC)
def test_status_api_is_never_offered_to_the_world(host: str) -> None:
    with pytest.raises(CannotStart, match="BAA_X must be http://ADDRESS:PORT with a loopback or a private") as caught:
        private_address(f"http://{host}:4318", "BAA_X")

    assert caught.value.exit_code == EX_CONFIG
