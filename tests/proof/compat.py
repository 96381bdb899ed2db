"""The tests of what Codex does for codexd, on other releases of it: `python -m tests.proof.compat [VERSION…]`.

One release after another is installed (releases.py), its schema is read (schema.py), and the tests below run with it.
Prints the table of docs/compatibility.md; all that was found is in `.codex-releases/compat.json`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import msgspec
from msgspec import Struct

from baa.api.status import Support
from baa.codexd.appserver.versions import numbers, support
from tests.proof.releases import CACHE, PACKAGE, ROOT, NoRelease, codex_of, folder_of, latest
from tests.proof.schema import facts, lacks, schema_of

RELEASES: Final = ("0.133.0", "0.144.4", "0.154.0", "0.159.3", "0.163.0", "latest")
REFERENCE: Final = "0.163.0"
"""The release of which the others are said to lack something: the one that is pinned."""

FOUND: Final = CACHE / "compat.json"
DOCUMENT: Final = ROOT / "docs" / "compatibility.md"
BEGINS, ENDS = "<!-- made by make compat -->", "<!-- end -->"

ELSEWHERE: Final = {
    "test_codexd_events.py": "pages and streams are codexd's own",
    "test_codexd_fenced.py": "which folder a codexd holds is codexd's own",
    "test_codexd_limits.py": "what a client may send is codexd's own",
    "test_codexd_retention.py": "what the log lets go of is codexd's own",
    "test_codexd_sse.py": "streams are codexd's own",
    "test_codexd_streams.py": "streams are codexd's own",
}
"""Contract tests of codexd that do not depend on Codex, and why."""

MORE: Final = ("tests/fault/test_kills.py", "tests/e2e/test_attach.py")
"""What is told of turns when codexd, its keeper or Codex is killed depends on Codex's own history; and the UI that is
attached is Codex's own, of the same release."""


class Gap(Struct, frozen=True):
    """What the releases before `since` (or from `until` on) have not, and the tests that show it there."""

    what: str
    tests: str
    since: tuple[int, ...] = ()
    until: tuple[int, ...] = ()

    def holds_for(self, version: str) -> bool:
        """Whether this release has it not."""
        is_ = numbers(version) or ()
        return bool(self.since and is_ < self.since) or bool(self.until and is_ >= self.until)


GAPS: Final[tuple[Gap, ...]] = (
    Gap(
        "an effort does not reach a model that Codex does not know, as the tests' is",
        "test_a_model_and_an_effort_hold_for_their_turn_alone",
        since=(0, 154, 0),
    ),
    Gap(
        "a service tier does not reach a model that Codex does not know, as the tests' is",
        "test_a_session_tells_all_that_it_was_registered_with"
        "|test_what_a_session_was_registered_with_outlives_the_child",
        since=(0, 163, 0),
    ),
    Gap(
        "a refused login (401) is told as an error of an unknown kind",
        "test_an_error_of_the_model_fails_the_turn_and_not_the_session",
        since=(0, 159, 3),
    ),
    Gap(
        "what a short command printed may be missing in its item",
        "test_a_session_goes_on_in_its_thread_and_sandbox_after_the_child_died",
        since=(0, 154, 0),
    ),
    Gap(
        "nothing for users: it hands a tool's text to the model in another form, which these tests compare",
        "test_what_a_server_asks_is_answered"
        "|test_where_no_approval_is_asked_for_a_server_is_not_heard_either"
        r"|test_what_nobody_answers_is_declined_and_the_turn_goes_on\[ask-elicitation",
        since=(0, 154, 0),
    ),
    Gap("`baa attach`: its UI asks for a login, also where the model needs none", "test_attach::", since=(0, 154, 0)),
    Gap(
        "`baa attach`: its UI shows a message by whole lines, not by words",
        "test_attach::test_(an_interrupt|history|it_comes_back|what_a_message_said|leaving_it)",
        since=(0, 159, 3),
    ),
    Gap(
        "`baa attach`: what is typed while a turn runs waits for the next command or Escape",
        "test_attach::test_an_interrupt_by_key_ends_the_turn",
        since=(0, 163, 0),
    ),
    Gap(
        "asks no client for its clock: what codexd answers to a request of an unknown kind is not seen",
        "test_a_request_that_codexd_does_not_answer_is_refused_at_once_and_told",
        until=(0, 171, 0),
    ),
)
"""Known gaps. `tests`: an expression that finds the names of the tests that cannot pass without it."""


class Found(Struct, frozen=True):
    """What was found of one release. `failed` are the names of tests that no known gap explains."""

    version: str
    support: str
    passed: int
    explained: dict[str, list[str]]
    failed: dict[str, str]
    lacks: list[str]


def suite() -> list[str]:
    """The files whose tests run: every contract test of codexd, but those that do not depend on Codex."""
    contracts = sorted((ROOT / "tests" / "contract").glob("test_codexd_*.py"))
    return [str(path.relative_to(ROOT)) for path in contracts if path.name not in ELSEWHERE] + list(MORE)


def tried(version: str, workers: str) -> Found:
    """Run the suite on a release. Raises NoRelease."""
    folder = folder_of(version)
    lacking = lacks(facts(schema_of(folder / PACKAGE / "bin" / "codex")), facts(schema_of(codex_of(REFERENCE))))
    if support(version) is Support.TOO_OLD:  # codexd refuses it, and there is nothing to try
        return Found(version, Support.TOO_OLD.value, 0, {}, {}, lacking)
    with tempfile.TemporaryDirectory() as made:
        report = Path(made) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", workers, "--dist", "loadfile", "-p", "no:cacheprovider"]
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        arguments = [*command, f"--junitxml={report}", "--tb=short", *suite()]
        with (CACHE / f"compat-{version}.log").open("w") as log:
            subprocess.run(arguments, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
        if not report.exists():
            raise NoRelease(f"The tests did not run on Codex {version}: {CACHE / f'compat-{version}.log'} says why.")
        passed, failed = read(report.read_text())
    explained, unexplained = explain(version, failed)
    return Found(version, support(version).value, passed, explained, unexplained, lacking)


def read(report: str) -> tuple[int, dict[str, str]]:
    """From a JUnit report: how many tests passed, and what the others said first."""
    passed, failed = 0, dict[str, str]()
    for case in ElementTree.fromstring(report).iter("testcase"):  # noqa: S314  (pytest wrote it)
        flaw = next((each for each in case if each.tag in ("failure", "error")), None)
        if flaw is not None:
            name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
            failed[name] = (flaw.get("message") or "").partition("\n")[0][:300]
        elif case.find("skipped") is None:
            passed += 1
    return passed, failed


def explain(
    version: str, failed: dict[str, str], gaps: Iterable[Gap] = GAPS
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The failures that known gaps of this release explain, by gap, and the others."""
    known = [gap for gap in gaps if gap.holds_for(version)]
    explained, others = dict[str, list[str]](), dict[str, str]()
    for name, said in failed.items():
        gap = next((each for each in known if re.search(each.tests, name)), None)
        if gap is None:
            others[name] = said
        else:
            explained.setdefault(gap.what, []).append(name)
    return explained, others


def keep(found: Found) -> None:
    """Put what was found of a release beside what was found of others before."""
    known = msgspec.json.decode(FOUND.read_bytes(), type=list[Found]) if FOUND.exists() else []
    kept = [*(each for each in known if each.version != found.version), found]
    kept.sort(key=lambda each: numbers(each.version) or ())
    FOUND.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=2))


def table(found: Iterable[Found]) -> str:
    """The table of docs/compatibility.md."""
    rows = ["| Codex | in status | tests passed | lacks |", "|---|---|---|---|"]
    for each in found:
        missing = [f"{what} ({len(tests)} test{'s' * (len(tests) > 1)})" for what, tests in each.explained.items()]
        missing += [f"failed: `{name}`" for name in each.failed]
        missing += [f"`{place}`" for place in each.lacks]
        count = each.passed + len(each.failed) + sum(map(len, each.explained.values()))
        told = "; ".join(missing) or "nothing"
        passed = f"{each.passed} of {count}" if count else "none, it is refused"
        rows.append(f"| {each.version} | `{each.support}` | {passed} | {told} |")
    return "\n".join(rows)


def main(arguments: list[str]) -> int:
    """Try the releases that are named, or all; the exit code is 1 if a test failed for no known reason."""
    workers = os.environ.get("WORKERS", "2")
    try:
        # Every one is there before the first runs: an hour of tests must not end in a download.
        releases = [latest() if each == "latest" else each for each in arguments or RELEASES]
        for each in releases:
            print(f"compat: Codex {each} is in {folder_of(each).relative_to(ROOT)}", file=sys.stderr)
        found = []
        for each in releases:
            found.append(tried(each, workers))
            print(f"compat: {each}: {found[-1].passed} passed, {len(found[-1].failed)} failed", file=sys.stderr)
            keep(found[-1])
    except (NoRelease, subprocess.CalledProcessError) as why:
        print(why, file=sys.stderr)
        return 69
    print(table(found))
    if not arguments:
        document = DOCUMENT.read_text()
        before, _, rest = document.partition(BEGINS)
        DOCUMENT.write_text(f"{before}{BEGINS}\n{table(found)}\n{ENDS}{rest.partition(ENDS)[2]}")
    return 1 if any(each.failed for each in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
