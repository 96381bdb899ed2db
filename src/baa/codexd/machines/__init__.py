"""The deciding: pure tables and step functions. No clock, no file, no socket, no randomness of their own.

`step(state, input, …) -> Step(state, events, effects)`. A change that a table does not list raises
`Impossible`: that is a mistake of ours, and codexd ends rather than guess. What the child may send at any time is made
harmless before (a late or repeated message is counted, never a change that cannot be).
"""

from __future__ import annotations


class Impossible(AssertionError):
    """A state was given an input that its table does not list."""
