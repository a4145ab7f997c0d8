"""Channel identities: every channel that a layer makes is an atom, and atoms that must go together are joined.

An atom is a positive integer; 0 stands for something that is never removed (a channel of a model's input, a constant).
Joined atoms form a unit: all of them are removed or none. A unit may be fixed, with the reason why it must stay.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["Atoms", "Labels"]

Labels = npt.NDArray[np.int64]


class Atoms:
    """A union-find forest over atoms (Tarjan 1975), with a reason for each unit that is fixed."""

    def __init__(self) -> None:
        self._parents: list[int] = [0]
        self._reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._parents) - 1

    def make(self, count: int) -> Labels:
        """New atoms, each its own unit: int64 [count]."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def find(self, atom: int) -> int:
        """The atom that stands for the unit of `atom`."""
        parents, root = self._parents, atom
        while parents[root] != root:
            root = parents[root]
        while parents[atom] != root:
            parents[atom], atom = root, parents[atom]
        return root

    def roots(self, labels: Labels) -> Labels:
        """`find` for each element; the same shape."""
        found, places = np.unique(labels, return_inverse=True)
        return np.array([self.find(int(atom)) for atom in found], np.int64)[places].reshape(labels.shape)

    def join(self, a: Labels, b: Labels, reason: str) -> Labels:
        """Join the arrays element by element (NumPy broadcasting) and return the labels of the result.

        An element joined with 0 becomes fixed for `reason`.
        """
        a, b = np.broadcast_arrays(a, b)
        if a is b or np.array_equal(a, b):
            return np.array(a)
        pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
        for one, other in pairs.T.tolist():
            if one and other:
                self._union(one, other)
            elif one or other:
                self._fix(one or other, reason)
        return np.where(a == 0, b, a)

    def _union(self, one: int, other: int) -> None:
        one, other = self.find(one), self.find(other)
        if one == other:
            return
        kept, gone = min(one, other), max(one, other)
        self._parents[gone] = kept
        reason = self._reasons.pop(gone, None)
        if reason is not None:
            self._reasons.setdefault(kept, reason)

    def _fix(self, atom: int, reason: str) -> None:
        self._reasons.setdefault(self.find(atom), reason)

    def fix(self, labels: Labels | Iterable[int], reason: str) -> None:
        """None of these may be removed, for this reason (an earlier reason stays)."""
        for atom in np.unique(np.asarray(labels)).tolist():
            if atom:
                self._fix(atom, reason)

    def reason(self, atom: int) -> str | None:
        """Why the unit of this atom is fixed, or None."""
        return self._reasons.get(self.find(atom))
