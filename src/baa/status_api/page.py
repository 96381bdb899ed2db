"""The plain page at `/`, for people that have the read token: what the open `/v1/status` says.

No script; it looks again by itself.
"""

from __future__ import annotations

from html import escape
from typing import Final

from baa.api.overview import CodexdView, ConductorView, Overview

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
REFRESH_S: Final = 5

_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid #8884; }
th { font-weight: 600; }
.stale { font-style: italic; } p.note { opacity: .75; }
"""


def page(seen: Overview) -> str:
    """The page as HTML."""
    head = "Something did not answer; last known values are marked." if seen.stale else "All programs answer."
    counts = "" if seen.counts is None else _table("Work", _counts(seen))
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>baa-conductor</title>
<meta http-equiv="refresh" content="{REFRESH_S}"><style>{_STYLE}</style></head>
<body>
<h1>baa-conductor</h1>
<p>{escape(head)}</p>
{_table("Programs", [_codexd(seen.codexd), _conductor(seen.conductor)], ("Program", "State", "Heard", "More"))}
{counts}
<p class="note">As of {escape(seen.as_of)}, status-api {escape(seen.version)}. For programs: <code>/v1/status</code>; \
with the read token it says more. On the machine: <code>baa node check</code>.</p>
</body>
</html>
"""


def _codexd(view: CodexdView) -> tuple[str, ...]:
    more = f"version {view.version}" if view.version else ""
    if view.child is not None:
        tested = view.child.support.value.replace("_", " ")
        more += f"; Codex {view.child.codex_version or 'unknown'} ({tested}): {view.child.state}"
        more += {True: ", logged in", False: ", not logged in", None: ""}[view.child.logged_in]
    return ("codexd", view.state, _heard(view), more)


def _conductor(view: ConductorView) -> tuple[str, ...]:
    more = f"version {view.version}; {view.role}, term {view.term}" if view.role else ""
    return ("conductor", view.state, _heard(view), more)


def _heard(view: CodexdView | ConductorView) -> str:
    if not view.stale:
        return "now"
    return "never" if view.as_of is None else f"stale: last at {view.as_of}"


def _counts(seen: Overview) -> list[tuple[str, ...]]:
    assert seen.counts is not None
    rows: list[tuple[str, ...]] = [
        ("Sessions", str(seen.counts.sessions)),
        ("Turns waiting", str(seen.counts.turns_queued)),
        ("Turns running", str(seen.counts.turns_running)),
        ("Turns ended", str(seen.counts.turns_ended)),
        ("Open questions", str(seen.counts.open_interactions)),
    ]
    if seen.nodes is not None:
        told = f"{seen.nodes.active} active, {seen.nodes.draining} draining, {seen.nodes.gone} gone"
        rows.append(("Nodes", told))
    return rows


def _table(title: str, rows: list[tuple[str, ...]], heads: tuple[str, ...] = ()) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    lines = [f"<tr>{head}</tr>"] if head else []
    for first, *others in rows:
        cells = "".join(f"<td>{escape(text)}</td>" for text in others)
        stale = ' class="stale"' if any(text.startswith("stale") for text in others) else ""
        lines.append(f'<tr{stale}><th scope="row">{escape(first)}</th>{cells}</tr>')
    return f"<h2>{escape(title)}</h2>\n<table>\n" + "\n".join(lines) + "\n</table>"
