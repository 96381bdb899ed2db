"""The routes of a program as the guard asks for them: read off the application, so that none can be forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from litestar import Litestar
from litestar.routes import HTTPRoute

from baa.http.guard import Access

Kind = Literal["http", "websocket"]
OPT: Final = "access"
"""The key in a handler's `opt` that says who may use it. A handler without it is no route at all."""


class RouteTable:
    """What (type, method, path) asks for; None = there is no such route."""

    def __init__(self) -> None:
        """Knows nothing yet."""
        self._exact: dict[tuple[Kind, str, str], Access] = {}
        self._templates: list[tuple[Kind, str, list[str], Access]] = []
        self._prefixes: list[tuple[str, Access]] = []

    def add(self, kind: Kind, method: str, template: str, access: Access) -> None:
        """Add a route. In `template`, a segment in braces stands for any one segment that is not empty."""
        if "{" in template:
            self._templates.append((kind, method, template.split("/"), access))
        else:
            self._exact[kind, method, template] = access

    def add_prefix(self, prefix: str, access: Access) -> None:
        """Add everything below `prefix`, of every type and method: what another program's guard decides on."""
        self._prefixes.append((prefix, access))

    def add_application(self, app: Litestar) -> None:
        """Add every handler of a Litestar application that says who may use it."""
        for route in app.routes:
            if isinstance(route, HTTPRoute):
                for handler in route.route_handlers:
                    access: Access | None = handler.opt.get(OPT)
                    if access is not None:
                        for method in handler.http_methods:
                            self.add("http", str(method), route.path_format, access)

    def __call__(self, kind: Kind, method: str, path: str) -> Access | None:
        """The access that the route asks for, or None."""
        exact = self._exact.get((kind, method, path))
        if exact is not None:
            return exact
        parts = path.split("/")
        for known, known_method, template, access in self._templates:
            if known == kind and known_method == method and _fits(template, parts):
                return access
        return next((access for prefix, access in self._prefixes if path.startswith(prefix)), None)

    def __iter__(self) -> Iterator[tuple[Kind, str, str, Access]]:
        """Every route: type, method, template, access."""
        yield from ((kind, method, path, access) for (kind, method, path), access in self._exact.items())
        yield from ((kind, method, "/".join(parts), access) for kind, method, parts, access in self._templates)


def _fits(template: list[str], parts: list[str]) -> bool:
    return len(template) == len(parts) and all(
        part != "" if wanted.startswith("{") else wanted == part for wanted, part in zip(template, parts, strict=True)
    )
