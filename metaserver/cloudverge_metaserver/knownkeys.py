"""Which keys of a space have been looked up already, whether there was a row or not. Pure."""

from collections.abc import Iterable, Mapping

from cloudverge_protocol.ids import REGION_MAX, InodeId
from cloudverge_protocol.inodes import Inode
from cloudverge_protocol.keys import Keys, Name, Span


class KnownKeys:
    """Grows by what was loaded (``add``) and by inodes that were made, of which all is known (``add_made``)."""

    def __init__(self) -> None:
        self._inodes: set[InodeId] = set()
        self._dentries: set[Name] = set()
        self._spans: dict[InodeId, list[tuple[int, int]]] = {}
        self._span_count = 0
        self._xattrs: set[InodeId] = set()
        self._orphans: set[InodeId] = set()
        self._made: set[InodeId] = set()

    @property
    def count(self) -> int:
        """How many keys there are."""
        single = len(self._inodes) + len(self._dentries) + len(self._xattrs) + len(self._orphans)
        return single + len(self._made) + self._span_count

    def add(self, keys: Keys) -> None:
        """These have been looked up. Chains make known the inodes that were found on the way up."""
        self._inodes |= keys.inodes
        self._dentries |= keys.dentries
        self._xattrs |= keys.xattrs
        self._orphans |= keys.orphans
        self._span_count += len(keys.spans)
        for ino, low, high in keys.spans:
            self._spans.setdefault(ino, []).append((low, high))

    def add_made(self, ino: InodeId) -> None:
        """This inode has just been made: nothing can be there that was not put there."""
        self._inodes.add(ino)
        self._made.add(ino)

    def without(self, keys: Keys, inodes: Mapping[InodeId, Inode]) -> Keys:
        """``keys`` less those that are known; ``inodes`` are the rows at hand."""
        made = self._made
        return Keys(
            keys.inodes - self._inodes,
            {name for name in keys.dentries - self._dentries if name[0] not in made},
            {span for span in keys.spans if not self._has_span(span)},
            keys.xattrs - self._xattrs - made,
            keys.orphans - self._orphans - made,
            _without_chain(keys.chains, inodes),
        )

    def _has_span(self, span: Span) -> bool:
        ino, low, high = span
        if ino in self._made:
            return True
        return any(first <= low and min(high, REGION_MAX) <= last for first, last in self._spans.get(ino, ()))


def _without_chain(folders: Iterable[InodeId], inodes: Mapping[InodeId, Inode]) -> set[InodeId]:
    """Those of ``folders`` that are not at hand with all that is above them; each row is looked at once."""
    whole: dict[InodeId, bool] = {}
    for folder in folders:
        path: list[InodeId] = []
        ino = folder
        while ino not in whole:
            row = inodes.get(ino)
            if row is None or row.parent == ino:
                whole[ino] = row is not None
            else:
                whole[ino] = False  # until it is known better; a ring never is
                path.append(ino)
                ino = row.parent
        for ino in path:
            whole[ino] = whole[inodes[path[-1]].parent]
    return {folder for folder in folders if not whole[folder]}
