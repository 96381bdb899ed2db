"""The config.toml that makes Codex use a scripted model, and nothing else on the network."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

STREAM_IDLE_TIMEOUT_MS = 3_600_000  # A held answer is silent; Codex's default of 5 minutes would give it up.


def codex_config(base_url: str, *, model: str = "scripted", retries: int = 1, features: Iterable[str] = ()) -> str:
    """The text of config.toml in the CODEX_HOME of a Codex that is to use the server at `base_url`.

    `retries` is how often Codex repeats a refused request, and a cut stream. Codex knows no model of the default name,
    and says so once a turn in a `warning`. `features` are Codex's experimental ones that are to be on.
    """
    more = "".join(f"{feature} = true\n" for feature in features)
    return f"""\
model = {_quoted(model)}
model_provider = "scripted"
check_for_update_on_startup = false

[model_providers.scripted]
name = "Scripted model"
base_url = {_quoted(base_url)}
wire_api = "responses"
requires_openai_auth = false
supports_websockets = false
request_max_retries = {retries}
stream_max_retries = {retries}
stream_idle_timeout_ms = {STREAM_IDLE_TIMEOUT_MS}

[features]
# Without this the app-server looks up github.com and chatgpt.com shortly after its start.
plugins = false
{more}
[analytics]
enabled = false

[feedback]
enabled = false
"""


def _quoted(text: str) -> str:
    # A JSON string is a TOML basic string, for all that a URL or a model's name can hold.
    return msgspec.json.encode(text).decode()
