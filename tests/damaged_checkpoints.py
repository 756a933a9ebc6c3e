"""Damages to checkpoints: flipped bits, truncations, and entries changed by hand."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Checkpoint = dict[Any, Any]
FIRST = "net.blocks.0.conv.weight"  # of the state_dict


def flip_bit(path: Path, position: int, bit: int = 0) -> None:
    """Flips a bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def flip_weight(path: Path) -> None:
    """Flips a bit of the first weight of a checkpoint or a model.pt."""
    content = torch.load(path, weights_only=True)
    weight = content.get("state_dict", content)[FIRST]
    flip_bit(path, path.read_bytes().index(bytes(weight.untyped_storage())))


def change(path: Path, edit: Callable[[Checkpoint], object]) -> None:
    """Edits a checkpoint in place; all its checksums are right."""
    checkpoint = torch.load(path, weights_only=True)
    edit(checkpoint)
    torch.save(checkpoint, path)


def set_weight(value: Any) -> Callable[[Checkpoint], object]:
    """Replaces the first weight by what a function makes of it."""

    def edit(checkpoint: Checkpoint) -> None:
        weights = checkpoint["state_dict"]
        weights[FIRST] = value(weights[FIRST])

    return edit


# Checkpoints changed by hand, which no command may use.
UNUSABLE: dict[str, Callable[[Checkpoint], object]] = {
    "no state_dict": lambda c: c.pop("state_dict"),
    "a list as state_dict": lambda c: c.update(state_dict=list(c["state_dict"].values())),
    "nested state_dict": lambda c: c.update(state_dict={"net": dict(c["state_dict"])}),
    "numbers as names": lambda c: c.update(state_dict=dict(enumerate(c["state_dict"].values()))),
    "extra weight": lambda c: c["state_dict"].update({"net.extra": torch.zeros(2)}),
    "lost weight": lambda c: c["state_dict"].pop(FIRST),
    "sparse weight": set_weight(lambda value: value.to_sparse()),
    "meta weight": set_weight(lambda value: value.to("meta")),
    "complex weight": set_weight(lambda value: value.to(torch.complex64)),
    "integer weight": set_weight(lambda value: value.to(torch.int8)),
    "transposed weight": set_weight(lambda value: value.permute(3, 2, 1, 0)),
    "huge weight": set_weight(lambda value: torch.zeros(1).expand(10**12)),
    "list as weight": set_weight(lambda value: value.tolist()),
    "no class_names": lambda c: c.update(class_names=None),
    "number as class_names": lambda c: c.update(class_names=5),
    "numbers as class_names": lambda c: c.update(class_names=[1, 2]),
    "fewer class_names": lambda c: c["class_names"].pop(),
    "empty class_names": lambda c: c["class_names"].clear(),
    "no input_shape": lambda c: c.pop("input_shape"),
    "number as input_shape": lambda c: c.update(input_shape=8),
    "empty input_shape": lambda c: c.update(input_shape=[]),
    "flat input_shape": lambda c: c["input_shape"].pop(),
    "input_shape of nothing": lambda c: c["input_shape"].__setitem__(1, 0),
    "huge input_shape": lambda c: c.update(input_shape=[c["input_shape"][0], 10**9, 10**9]),
    "text as epoch": lambda c: c.update(epoch="1"),
    "negative epoch": lambda c: c.update(epoch=-1),
    "huge epoch": lambda c: c.update(epoch=10**30),
}
# Those that are fit for predictions, but not to resume from.
UNRESUMABLE: dict[str, Callable[[Checkpoint], object]] = {
    "no optimizer_states": lambda c: c.pop("optimizer_states"),
    "empty optimizer_states": lambda c: c["optimizer_states"].clear(),
    "no groups": lambda c: c["optimizer_states"][0]["param_groups"].clear(),
    "empty group": lambda c: c["optimizer_states"][0]["param_groups"][0]["params"].clear(),
    "group without lr": lambda c: c["optimizer_states"][0]["param_groups"][0].pop("lr"),
    "misshapen state": lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(3, 7)),
    "sparse state": lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(3, 7).to_sparse()),
    "list as weight_decay": lambda c: c["optimizer_states"][0]["param_groups"][0].update(weight_decay=[1]),
    "text as betas": lambda c: c["optimizer_states"][0]["param_groups"][0].update(betas="ab"),
    "no eps": lambda c: c["optimizer_states"][0]["param_groups"][0].update(eps=None),
    "number as exp_avg": lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=5),
    "number as state": lambda c: c["optimizer_states"][0]["state"].update({0: 5}),
    "no loops": lambda c: c.update(loops={}),
    "no counts": lambda c: c["loops"]["fit_loop"].update(epoch_progress={}),
    "text as count": lambda c: c["loops"]["fit_loop"]["epoch_progress"]["current"].update(ready="1"),
    "negative count": lambda c: c["loops"]["fit_loop"]["epoch_progress"]["current"].update(processed=-1),
    "no callbacks": lambda c: c.pop("callbacks"),
    "foreign callback": lambda c: c.update(callbacks={key: {"a": 1} for key in c["callbacks"]}),
    "list as callbacks": lambda c: c.update(callbacks=[]),
    "no lr_schedulers": lambda c: c.update(lr_schedulers=[]),
    "text as base_lrs": lambda c: c["lr_schedulers"][0].update(base_lrs="x"),
    "text as last_epoch": lambda c: c["lr_schedulers"][0].update(last_epoch="x"),
    "empty scheduler": lambda c: c.update(lr_schedulers=[{}]),
    "no train_scores": lambda c: c.update(train_scores=None),
    "unknown score": lambda c: c["train_scores"].update(reset=torch.zeros(1)),
    "misshapen score": lambda c: c["train_scores"].update(confusion=torch.zeros(3)),
    "no version": lambda c: c.update({"pytorch-lightning_version": "new"}),
}


def mutate(path: Path, draw: random.Random) -> None:
    """Damages a checkpoint at random: a flipped bit, a truncation, random bytes, or a changed entry."""
    kind = draw.choice(("flip", "cut", "burst", "entry", "entry", "entry"))
    content = path.read_bytes()
    position = draw.randrange(len(content))
    if kind == "flip":
        flip_bit(path, position, draw.randrange(8))
    elif kind == "cut":
        path.write_bytes(content[:position])
    elif kind == "burst":
        path.write_bytes(content[:position] + draw.randbytes(64) + content[position + 64 :])
    else:
        change(path, lambda checkpoint: change_entry(checkpoint, draw))


# What an entry is replaced by; None: it is removed.
REPLACEMENTS: tuple[Callable[[Any], Any] | None, ...] = (
    None,
    lambda value: None,
    lambda value: "text",
    lambda value: -1,
    lambda value: 2**70,
    lambda value: [],
    lambda value: {},
    lambda value: [value],
    lambda value: {"value": value},
    lambda value: torch.full((2, 3), torch.nan),
    lambda value: value[..., :1] if isinstance(value, Tensor) and value.ndim else float("nan"),
)


def change_entry(checkpoint: Checkpoint, draw: random.Random) -> None:
    """Replaces or removes an entry at a random depth."""
    container: Any = checkpoint
    while True:
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        key = draw.choice(keys)
        child = container[key]
        if not isinstance(child, dict | list) or not child or draw.random() < 0.2:
            break
        container = child
    replacement = draw.choice(REPLACEMENTS)
    if replacement is None:
        del container[key]
    else:
        container[key] = replacement(child)
