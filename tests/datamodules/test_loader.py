"""Batches depend on (seed, epoch) alone: every sample once, the same sets on any number of ranks."""

from itertools import chain

import numpy as np
import pytest
import torch

from datamodules.loader import Batch, BatchLoader
from datamodules.storage.inputs import InMemory, Split

SIZES = range(1, 18)


def split_of(samples: int) -> Split:
    """Sample i has the input 3 i and the label i % 5."""
    inputs = (3 * torch.arange(samples, dtype=torch.uint8)).view(-1, 1, 1, 1)
    return Split(
        InMemory(inputs.numpy()), np.arange(samples), torch.arange(samples) % 5, [f"file {i}" for i in range(samples)]
    )


def indices(loader: BatchLoader) -> list[list[int]]:
    return [batch.index.tolist() for batch in loader]


def flat(lists: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def of_all_ranks(samples: int, ranks: int, **options: object) -> list[list[list[int]]]:
    """The indices by batch and rank."""
    loaders = [BatchLoader(split_of(samples), 4, rank=rank, world_size=ranks, **options) for rank in range(ranks)]
    return [list(shards) for shards in zip(*map(indices, loaders), strict=True)]


@pytest.mark.parametrize("seed", [None, 3])
def test_every_sample_occurs_once_per_epoch(seed: int | None) -> None:
    for samples in SIZES:
        seen = flat(indices(BatchLoader(split_of(samples), 4, seed=seed)))
        assert sorted(seen) == list(range(samples))


def test_batch_holds_the_samples_of_its_index() -> None:
    for batch in BatchLoader(split_of(11), 4, seed=0):
        assert isinstance(batch, Batch)
        assert batch.inputs.dtype == torch.uint8 and batch.inputs.shape == (batch.size, 1, 1, 1)
        assert batch.inputs.flatten().tolist() == [3 * i for i in batch.index.tolist()]
        assert batch.labels.tolist() == [i % 5 for i in batch.index.tolist()]


def test_training_order_is_a_permutation_by_seed_and_epoch() -> None:
    for epoch in range(3):
        loader = BatchLoader(split_of(17), 4, seed=5, position=lambda epoch=epoch: (epoch, 0))
        assert flat(indices(loader)) == np.random.default_rng((5, epoch)).permutation(17).tolist()


def test_order_differs_between_epochs_and_between_seeds() -> None:
    orders = {
        tuple(flat(indices(BatchLoader(split_of(17), 4, seed=seed, position=lambda epoch=epoch: (epoch, 0)))))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_epoch_can_be_iterated_again() -> None:
    loader = BatchLoader(split_of(9), 4, seed=1)
    assert indices(loader) == indices(loader)


def test_evaluation_is_in_order() -> None:
    assert indices(BatchLoader(split_of(10), 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_on_ranks_pads_nothing(ranks: int) -> None:
    for samples in SIZES:
        batches = of_all_ranks(samples, ranks)
        whole = indices(BatchLoader(split_of(samples), 4))
        assert [sorted(flat(shards)) for shards in batches] == whole


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_training_batches_do_not_depend_on_the_number_of_ranks(ranks: int, drop_last: bool) -> None:
    for samples in SIZES:
        batches = of_all_ranks(samples, ranks, seed=2, drop_last=drop_last)
        order = np.random.default_rng((2, 0)).permutation(samples).tolist()
        whole = [order[start : start + 4] for start in range(0, samples, 4)]
        expected = [batch for batch in whole if len(batch) >= (4 if drop_last else ranks)]
        assert [sorted(flat(shards)) for shards in batches] == [sorted(batch) for batch in expected]
        assert all(shard for shards in batches for shard in shards), "a rank without a sample has no gradient"


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_batch_size_counts_all_ranks(ranks: int) -> None:
    loaders = [BatchLoader(split_of(10), 4, rank=rank, world_size=ranks) for rank in range(ranks)]
    for shards in zip(*loaders, strict=True):
        assert {shard.size for shard in shards} == {sum(len(shard.labels) for shard in shards)}


def test_empty_shard_keeps_its_shape() -> None:
    *_, last = BatchLoader(split_of(5), 4, rank=1, world_size=2)
    assert last.inputs.shape == (0, 1, 1, 1) and last.labels.shape == (0,) and last.size == 1


def test_drop_last_drops_a_batch_that_is_not_full() -> None:
    for samples in SIZES:
        batches = indices(BatchLoader(split_of(samples), 4, seed=0, drop_last=True))
        assert [len(batch) for batch in batches] == [4] * (samples // 4)


@pytest.mark.parametrize("ranks", [1, 2])
def test_iteration_from_the_middle_gives_the_rest(ranks: int) -> None:
    whole = indices(BatchLoader(split_of(17), 4, rank=ranks - 1, world_size=ranks, seed=3, position=lambda: (2, 0)))
    for done in range(len(whole) + 1):
        position = (2, done)
        rest = BatchLoader(
            split_of(17), 4, rank=ranks - 1, world_size=ranks, seed=3, position=lambda position=position: position
        )
        assert indices(rest) == whole[done:]
        assert len(rest) == len(whole), "the length is that of an epoch, wherever it starts"


def test_position_is_called_at_the_first_batch() -> None:
    epoch = 0
    loader = BatchLoader(split_of(17), 4, seed=3, position=lambda: (epoch, 0))
    iterator = iter(loader)
    epoch = 4
    assert next(iterator).index.tolist() == np.random.default_rng((3, 4)).permutation(17)[:4].tolist()


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("drop_last", [False, True])
def test_length_agrees_with_iteration(ranks: int, seed: int | None, drop_last: bool) -> None:
    for samples in SIZES:
        for rank in range(ranks):
            loader = BatchLoader(split_of(samples), 4, rank=rank, world_size=ranks, seed=seed, drop_last=drop_last)
            assert len(loader) == len(indices(loader))


def test_loader_is_resumable_for_lightning() -> None:
    loader = BatchLoader(split_of(9), 4, seed=1)
    before = indices(loader)
    loader.load_state_dict(loader.state_dict())
    assert indices(loader) == before
