from __future__ import annotations

from hypothesis import settings

# No deadlines, because a busy machine proves nothing; the same examples always, because a gate must be one for all.
settings.register_profile("gate", deadline=None, derandomize=True, database=None)
settings.load_profile("gate")
