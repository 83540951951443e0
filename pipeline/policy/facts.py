"""What policies look at, out of an ingested run: popularity, dates, creators, the protected group, users' groups."""

from __future__ import annotations

import numpy as np

from data.dataset import Dataset
from data.schema import SPLIT_CODES
from pipeline.settings.policy import PolicySection
from ranking.adjustments import BUCKETS, popularity_buckets
from serving.graphs.policy_tables import PolicyTables

MOST_NAMED = 20
"""Values of an attribute that an error names."""


def policy_tables(dataset: Dataset, section: PolicySection, splits: tuple[str, ...]) -> PolicyTables:
    """The facts as of the end of the given splits.

    Raises:
        ValueError: a setting that names a column or a value which the data does not have.
    """
    events = dataset.events
    kept = events["positive"].to_numpy(bool) & events["split"].isin([SPLIT_CODES[name] for name in splits]).to_numpy()
    counts = np.bincount(events["item"].to_numpy()[kept], minlength=dataset.schema.item_rows)
    user_group, group_floors = floors_of_groups(dataset, section) if section.user_floors else (None, None)
    return PolicyTables(
        counts=counts.astype(np.int64),
        released=dataset.items["created_at"].to_numpy(np.int64),
        creator=attribute_codes(dataset, section.creator),
        category=attribute_codes(dataset, section.category),
        protected=protected_items(dataset, section.protected, counts),
        user_group=user_group,
        group_floors=group_floors,
        context={name: tuple(words) for name, words in dataset.context_vocabulary.items()},
    )


def check_policy(dataset: Dataset, section: PolicySection) -> None:
    """Refuses settings that name what the data does not have as soon as there is data, and not when all else is trained.

    Raises:
        ValueError: see `policy_tables`.
    """
    protected_items(dataset, section.protected, dataset.counts)
    if section.user_groups:
        floors_of_groups(dataset, section)


def floors_of_groups(dataset: Dataset, section: PolicySection) -> tuple[np.ndarray, np.ndarray]:
    """Codes int32 [U + 1] of `user_groups`, and the least share f32 [groups] that each is shown.

    Raises:
        ValueError: the data has no such column, or the column no such group.
    """
    codes, names = user_groups(dataset, section.user_groups)
    unknown = sorted(set(section.user_floors) - set(names))
    if unknown:
        raise ValueError(
            f"policy.user_floors: groups of {section.user_groups} are {', '.join(names)}, received {', '.join(unknown)}"
        )
    return codes, np.array([section.user_floors.get(name, 0.0) for name in names], np.float32)


def attribute_codes(dataset: Dataset, column: str) -> np.ndarray | None:
    """int32 [N + 1] codes of an item attribute, 0 = unknown; None where the data has no such column."""
    names = list(dataset.schema.attributes)
    return dataset.attributes[:, names.index(column)] if column in names else None


def protected_items(dataset: Dataset, group: str, counts: np.ndarray) -> np.ndarray:
    """Which items are protected, bool [N + 1]; see `PolicySection.protected`.

    Args:
        counts: [N + 1] positive events that are known, for "rare"; "new" is by the training split, as everywhere.

    Raises:
        ValueError: a group that the data does not have.
    """
    if group in ("rare", "new"):
        chosen = popularity_buckets(counts) == BUCKETS - 1 if group == "rare" else np.asarray(dataset.counts) == 0
    else:
        column, equals, value = group.partition("=")
        words = dataset.attribute_vocabulary.get(column, [])
        if not equals or column not in dataset.schema.attributes or value not in words:
            there = words[1 : MOST_NAMED + 1] if column in dataset.schema.attributes else list(dataset.schema.attributes)
            called = f"values of {column}" if column in dataset.schema.attributes else "attributes"
            raise ValueError(
                f"policy.protected: must be 'rare', 'new' or an item attribute's value as in 'domain=indie', received "
                f"{group!r}; {called} are {', '.join(there) or '(none)'}{', ...' if len(words) > MOST_NAMED + 1 else ''}"
            )
        codes = attribute_codes(dataset, column)
        assert codes is not None
        chosen = codes == words.index(value)
    chosen = np.array(chosen, bool)
    chosen[0] = False
    return chosen


def user_groups(dataset: Dataset, column: str) -> tuple[np.ndarray, list[str]]:
    """Codes int32 [U + 1] of a profile column and what they are called, "unknown" first.

    Raises:
        ValueError: the data has no such column.
    """
    names = list(dataset.schema.profile)
    if column not in names:
        raise ValueError(
            f"policy.user_groups: must be a profile column ({', '.join(names) or 'there is none'}), received {column!r}"
        )
    words = list(dataset.profile_vocabulary.get(column, []))
    size = dataset.schema.profile[column]
    called = ["unknown", *(words[code] if code < len(words) else f"code {code}" for code in range(1, size))]
    return dataset.profile[:, names.index(column)], called
