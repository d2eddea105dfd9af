"""Keeping the bucket `models` true: one card per model that is here."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from sagellm_common.bus import Bucket
from sagellm_common.contracts.registry import ModelCard
from sagellm_common.errors import SageError
from sagellm_common.subjects import encode_token
from sagellm_registry.store import ModelStore

log = structlog.get_logger(__name__)


class Catalog:
    """Publishes the cards of a store's models, and takes back those of models that are gone.

    `reopen` opens the bucket anew, since it may have gone with the server's storage.
    """

    def __init__(self, bucket: Bucket, reopen: Callable[[], Awaitable[Bucket]], store: ModelStore) -> None:
        self._bucket, self._reopen, self._store = bucket, reopen, store
        self._published: dict[str, ModelCard] = {}
        self._turn = asyncio.Lock()

    async def adopt(self) -> None:
        """Take over the cards that an earlier run of this registry left: those that point below our root."""
        root = self._store.root
        for key, card in (await self._bucket.read_all(ModelCard)).items():
            if root in Path(card.path).parents:
                self._published[key] = card

    async def restore(self) -> None:
        """Write every card again if the bucket has been made anew; raises Unavailable."""
        async with self._turn:
            bucket = await self._reopen()
            if bucket.created_ns != self._bucket.created_ns:
                self._published.clear()
            self._bucket = bucket
        await self.sync()

    async def sync(self) -> int:
        """Write what has changed, remove what is gone; returns how many models there are."""
        async with self._turn:
            cards = await asyncio.to_thread(self._cards)
            for key, card in cards.items():
                if self._published.get(key) != card:
                    await self._bucket.put(key, card)
                    self._published[key] = card
            for key in [key for key in self._published if key not in cards]:
                await self._bucket.delete(key)
                del self._published[key]
            return len(cards)

    def _cards(self) -> dict[str, ModelCard]:
        """One card per model id: of the revision that is meant when none is named."""
        cards: dict[str, ModelCard] = {}
        for model_id in dict.fromkeys(model.model_id for model in self._store.list_models()):
            try:
                cards[encode_token(model_id)] = self._store.get_card(model_id)
            except SageError as error:
                log.warning("model_without_card", model=model_id, code=error.code, error=error.message)
        return cards
