"""Where a release puts items that were added, changed or only described anew since it was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import grpc

from serving.catalogue.live_items_log import LiveItem, LiveVector
from serving.client.new_items import NewItem
from serving.release_number import base_version
from serving.status import ServingError

if TYPE_CHECKING:  # its protocol messages bring TensorFlow with them
    from serving.client.recommender import Recommender

TRIES = 3


@dataclasses.dataclass(frozen=True)
class Placing:
    """Asks the models of the answering release.

    Attributes:
        encoder: the client; only what places items is asked of it.
        released: whether the run's catalogue holds an item with the very content that it has now.
        encoder_model, search_model, ranking_model: names of the models. deadline: seconds for encoding.
    """

    encoder: Recommender
    released: Callable[[LiveItem], bool]
    encoder_model: str = "item_encoder"
    search_model: str = "search"
    ranking_model: str = "ranking"
    deadline: float = 10.0

    def place(self, items: Sequence[LiveItem], read: Callable[[LiveItem], NewItem]) -> list[LiveVector]:
        """Where the answering release puts items, all by one release; its updates count as itself.

        An item that it holds with the same content stays where training put it: what people did with it counts for more
        than content alone. Any other is put where its content says.

        Args:
            read: the raw content of an item; called for those alone that have to be encoded.

        Raises:
            ServingError: what the server answered; ABORTED where its release changed between the calls, three times.
        """
        for _ in range(TRIES):
            known, version = self.encoder.known_items([item.item_id for item in items], ranking_model=self.ranking_model)
            stay = [is_known and self.released(item) for item, is_known in zip(items, known, strict=True)]
            release = base_version(version)
            vectors = [LiveVector(release, is_known, None, None) for is_known in known]
            moving = [place for place, stays in enumerate(stay) if not stays]
            if not moving:
                return vectors
            encoded = self.encoder.encode_items(
                [read(items[place]) for place in moving], encoder_model=self.encoder_model, deadline=self.deadline
            )
            if base_version(encoded.version) != release:
                continue
            search = self.encoder.place_in_search(encoded, search_model=self.search_model)
            content = self.encoder.place_in_content(encoded)
            for line, place in enumerate(moving):
                vectors[place] = LiveVector(
                    release,
                    known[place],
                    encoded.embeddings[line],
                    None if search is None else search[line],
                    {name: table[line] for name, table in content.items() if table[line].any()},
                )
            return vectors
        raise ServingError(grpc.StatusCode.ABORTED, "the release changes just now; send the item again")
