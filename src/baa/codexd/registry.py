"""All sessions of one codexd, and which of them a thread, a turn or an interaction belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from baa.codexd.eventlog import Transaction
from baa.codexd.machines.session import Session


class Registry:
    """The sessions as they stand, found by what they hold. Only the main loop changes it."""

    def __init__(self, sessions: Iterable[Session]) -> None:
        """Begin with what boot read."""
        self.all: dict[str, Session] = {}
        self._by_thread: dict[str, str] = {}
        self._by_turn: dict[str, str] = {}
        self._by_question: dict[str, str] = {}
        self._hearing: set[str] = set()
        for session in sessions:
            self._index(None, session)

    def get(self, session_id: str) -> Session | None:
        """The session of this id."""
        return self.all.get(session_id)

    def of_thread(self, thread_id: str | None) -> Session | None:
        """The session that has this thread of Codex's."""
        return None if thread_id is None else self.all.get(self._by_thread.get(thread_id, ""))

    def of_turn(self, turn_id: str) -> Session | None:
        """The session of a turn that has not ended."""
        return self.all.get(self._by_turn.get(turn_id, ""))

    def of_question(self, interaction_id: str) -> Session | None:
        """The session of an interaction that is open."""
        return self.all.get(self._by_question.get(interaction_id, ""))

    def of_owner(self, owner_id: str) -> Session | None:
        """The session that this id is of, or of whose turn or interaction it is."""
        return self.get(owner_id) or self.of_turn(owner_id) or self.of_question(owner_id)

    @property
    def questions(self) -> int:
        """How many interactions are open."""
        return len(self._by_question)

    def asking(self) -> frozenset[str]:
        """The turns that wait for an answer of a client's."""
        asking = (self.all[session_id] for session_id in set(self._by_question.values()))
        return frozenset(
            question.turn_id for session in asking for question in session.questions if question.turn_id is not None
        )

    def hearing(self) -> Iterator[Session]:
        """The sessions to which it can matter what happens to the child, as each stands when its turn comes."""
        for session_id in sorted(self._hearing):
            yield self.all[session_id]

    def remember(self, after: Session, transaction: Transaction) -> None:
        """From now on the session stands so."""
        before = self.all.get(after.session_id)
        self._index(before, after)
        if (0 if before is None else before.loaded_in) != after.loaded_in:
            statement = "INSERT OR REPLACE INTO loaded (session_id, generation) VALUES (?, ?)"
            transaction.statements.append((statement, (after.session_id, after.loaded_in)))
        agents = () if before is None else before.agents
        if agents is not after.agents:
            statement = "INSERT OR REPLACE INTO agent (thread_id, session_id, codex_turn_id) VALUES (?, ?, ?)"
            for agent in set(after.agents) - set(agents):
                values = (agent.thread_id, after.session_id, agent.codex_turn_id)
                transaction.statements.append((statement, values))

    def _index(self, before: Session | None, after: Session) -> None:
        session_id = after.session_id
        self.all[session_id] = after
        thread_id = None if before is None else before.thread_id
        if thread_id != after.thread_id:
            if thread_id is not None:
                self._by_thread.pop(thread_id, None)
            if after.thread_id is not None:
                self._by_thread[after.thread_id] = session_id
        for agent in after.agents if before is None or before.agents is not after.agents else ():
            self._by_thread[agent.thread_id] = session_id
        turns = () if before is None else before.turns
        if turns is not after.turns:
            _follow(self._by_turn, session_id, {t.turn_id for t in turns}, {t.turn_id for t in after.turns})
        questions = () if before is None else before.questions
        if questions is not after.questions:
            asked = {question.interaction_id for question in questions}
            _follow(self._by_question, session_id, asked, {question.interaction_id for question in after.questions})
        (self._hearing.add if _hears(after) else self._hearing.discard)(session_id)


def _follow(where: dict[str, str], session_id: str, before: set[str], after: set[str]) -> None:
    for gone in before - after:
        where.pop(gone, None)
    for come in after - before:
        where[come] = session_id


def _hears(session: Session) -> bool:
    """An ephemeral thread is lost with the child, whether a turn of it runs or not."""
    lives_in_child = session.settings.ephemeral and session.loaded_in != 0 and not session.closed
    return bool(session.turns or session.questions) or session.closing or lives_in_child
