"""All children of one cluster together: a tick looks at each and starts what is due.

Knows nothing of clusters: it runs whatever specs it is given. Time is passed in.
"""

import time
from collections.abc import Sequence

from cloudverge_embedded.child import Child
from cloudverge_embedded.plan import ChildSpec
from cloudverge_embedded.settings import Restart
from cloudverge_embedded.upkeep import Phase, to_start

_POLL_S = 0.02


class Fleet:
    """The children, in the order of the plan."""

    def __init__(self) -> None:
        self.children: dict[str, Child] = {}
        self.restart = Restart.ALWAYS

    def follow(self, specs: Sequence[ChildSpec], restart: Restart) -> None:
        """Take over a new plan: what runs keeps running, its next start follows the new spec."""
        self.restart = restart
        for spec in specs:
            if spec.name in self.children:
                self.children[spec.name].spec = spec
            else:
                self.children[spec.name] = Child(spec)

    def request(self) -> None:
        """Somebody asked for all children to be up."""
        for child in self.children.values():
            child.request()

    def tick(self, now_s: float) -> None:
        """Notice what happened, start what is due."""
        for child in self.children.values():
            child.poll(now_s)
        standings = [child.standing for child in self.children.values()]
        for name in to_start(standings, self.restart, now_s):
            self.children[name].start(now_s)

    @property
    def is_ready(self) -> bool:
        """True when every child is."""
        return all(child.phase is Phase.READY for child in self.children.values())

    @property
    def is_starting(self) -> bool:
        """True while a child is between its start and being ready."""
        return any(child.phase is Phase.STARTING for child in self.children.values())

    @property
    def troubles(self) -> list[str]:
        """Why requested children are not up."""
        return [child.trouble for child in self.children.values() if child.requested and child.trouble]

    def give_up(self) -> None:
        """The request has failed: what is down stays down, unless the restart rule says otherwise."""
        for child in self.children.values():
            child.requested = False

    def stop(self, grace_s: float) -> None:
        """Stop those nobody needs first, those that others need last."""
        depths = {name: self._depth(name) for name in self.children}
        for depth in sorted(set(depths.values()), reverse=True):
            _stop_group([self.children[name] for name in depths if depths[name] == depth], grace_s)

    def _depth(self, name: str) -> int:
        """How long a chain of needs stands below one child."""
        needs = self.children[name].spec.needs
        return 1 + max((self._depth(need) for need in needs), default=0)


def _stop_group(group: Sequence[Child], grace_s: float) -> None:
    for child in group:
        child.signal_stop()
    deadline = time.monotonic() + grace_s
    while any(child.pid for child in group) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        for child in group:
            child.poll(time.monotonic())
    for child in group:
        child.kill()
