"""The waiting room: bounded, and fair to every visitor."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator

from ganhub.engine.tickets import Ticket
from ganhub.errors import EngineError


class WaitingRoom:
    """Tickets by visitor, in the order of the visitors' turns. The caller holds the engine's lock.

    Args:
        limit: tickets that may wait, of all visitors together.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._visitors: OrderedDict[str, OrderedDict[Ticket, None]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Ticket]:
        return (ticket for tickets in list(self._visitors.values()) for ticket in list(tickets))

    def admit(self, tickets: list[Ticket]) -> None:
        """Adds tickets, all or none.

        Raises:
            EngineError: `queue_full`.
        """
        if self._count + len(tickets) > self.limit:
            raise EngineError(
                f"{self._count} requests are waiting already ({self.limit} may); try again in a moment.", "queue_full"
            )
        for ticket in tickets:
            self._visitors.setdefault(ticket.job.visitor, OrderedDict())[ticket] = None
            self._count += 1

    def discard(self, ticket: Ticket) -> None:
        """Takes a ticket out, if it is in."""
        visitor = ticket.job.visitor
        mine = self._visitors.get(visitor)
        if mine is None or ticket not in mine:
            return
        del mine[ticket]
        self._count -= 1
        if not mine:
            del self._visitors[visitor]

    def take(
        self, ready: Callable[[Ticket], bool], most: Callable[[Ticket], int], mates: Callable[[Ticket], Hashable]
    ) -> list[Ticket]:
        """The next batch: the first ready ticket of the visitor whose turn it is, and its mates.

        Mates are taken one from each visitor in turn until the batch is full, so that a visitor with forty
        requests shares it with the one who has a single request. Whoever was served goes to the end of the line.

        Args:
            ready: the ticket could run now.
            most: size of the largest batch that a ticket may be in.
            mates: tickets for which this is equal may share a batch.
        """
        lead = next((ticket for ticket in self if ready(ticket)), None)
        if lead is None:
            return []
        kind, size = mates(lead), most(lead)
        lines = [
            [t for t in tickets if mates(t) == kind and ready(t)]
            for visitor, tickets in self._visitors.items()
            if visitor != lead.job.visitor
        ]
        own = [t for t in self._visitors[lead.job.visitor] if mates(t) == kind and ready(t)]
        rounds = [line for line in [own, *lines] if line]
        batch: list[Ticket] = []
        turn = 0
        while len(batch) < size and any(turn < len(line) for line in rounds):
            batch += [line[turn] for line in rounds if turn < len(line)][: size - len(batch)]
            turn += 1
        for ticket in batch:
            self.discard(ticket)
        for visitor in dict.fromkeys(t.job.visitor for t in batch):
            if visitor in self._visitors:
                self._visitors.move_to_end(visitor)
        return batch
