"""Which page holds the keys and values of which prefix.

A node stands for one full page of tokens behind its parent node, so that a path from the root spells a prefix. Nodes
are found by (parent's number, tokens): the dictionary hashes the pair and compares the tokens themselves, and a number
is never given twice. Equal tokens behind different prefixes can therefore never be mistaken for one another, whatever
their hashes.
"""

from collections.abc import Sequence
from typing import NamedTuple

ROOT = 0


class PrefixNode(NamedTuple):
    """One indexed page."""

    number: int
    page: int
    key: tuple[int, tuple[int, ...]]


class PrefixIndex:
    """A trie over full pages. Knows nothing of free or used pages."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._nodes: dict[tuple[int, tuple[int, ...]], PrefixNode] = {}
        self._by_page: dict[int, PrefixNode] = {}
        self._last_number = ROOT

    def __len__(self) -> int:
        """Return the number of indexed pages."""
        return len(self._nodes)

    def __contains__(self, page: int) -> bool:
        """Return whether a page is indexed."""
        return page in self._by_page

    def match(self, tokens: Sequence[int], max_tokens: int) -> list[PrefixNode]:
        """Return the nodes of the longest indexed prefix of at most `max_tokens` tokens, first page first."""
        nodes: list[PrefixNode] = []
        parent, size = ROOT, self._page_size
        for start in range(0, max_tokens - size + 1, size):
            node = self._nodes.get((parent, tuple(tokens[start : start + size])))
            if node is None:
                break
            nodes.append(node)
            parent = node.number
        return nodes

    def add(self, parent: int, tokens: tuple[int, ...], page: int) -> int:
        """Index a computed page and return its node's number; an equal prefix that is there already keeps its page."""
        key = (parent, tokens)
        node = self._nodes.get(key)
        if node is None:
            self._last_number += 1
            node = PrefixNode(self._last_number, page, key)
            self._nodes[key] = node
            self._by_page[page] = node
        return node.number

    def remove(self, page: int) -> None:
        """Forget a page; longer prefixes that went through it are no longer found."""
        node = self._by_page.pop(page, None)
        if node is not None:
            del self._nodes[node.key]
