"""A command line of wrong keys and values is answered in one line, never by a traceback."""

import random
import shlex
import traceback
from collections.abc import Iterator
from functools import cache

import pytest
from omegaconf import DictConfig, OmegaConf

from conf import command_line, validation
from conf.error_messages import one_line
from conf.saved_config import flat
from tests.configs import ROOT, configure

CONF = ROOT / "conf"
LONG_WORD = "x" * 5_000
ODD_VALUES = (
    None, True, -1, 0, 1.5, 1e30, 10**30, float("nan"), float("inf"), "", "x", "a/b", "a\nb", "\0", LONG_WORD, "???",
    "${nothing}", "${oc.env:NOT_SET}", [], [1], ["a", None], {}, {"a": 1}, {1: 2}, {"_target_": 5},
    {"_target_": "torch.nn.ReLU"}, {"_target_": f"torch.nn.{LONG_WORD}"},
)  # fmt: skip
ODD_WORDS = (
    "null", "true", "-1", "0", "1e30", "9" * 400, "nan", "inf", "''", "x", "a/b", "[]", "[1]", "[a,null]", "{}",
    "{a:1}", "{_target_:5}", "{_target_:torch.nn.ReLU}", "${nothing}", "${oc.env:NOT_SET}", "${", "'", "[", "a=b",
    "???", "", LONG_WORD,
)  # fmt: skip
# Base commands that together contain a node of every kind.
EXPERIMENTS = sorted(
    f"+experiment={path.relative_to(CONF / 'experiment').with_suffix('').as_posix()}"
    for path in CONF.glob("experiment/**/*.yaml")
)
BASES = (
    "seed=0",
    "callbacks=[keep_best,adam_to_sgd,compile,early_stopping,ema,projector] datamodule/mix=cutmix",
    "datamodule/augment=[affine,alternating_flip,color,crop,cutout,flip,rand,resized_crop,trivial]",
    "datamodule=array_folder datamodule.root=x",
    "datamodule=streaming datamodule.root=x",
    "datamodule=torchvision datamodule.dataset=MNIST",
    "lit_module/net=torchvision lit_module/scheduler=plateau",
    "lit_module/net=timm lit_module/scheduler=one_cycle",
    "lit_module/scheduler=step trainer=profile",
    "trainer=fast devices=fsdp",
    "task=inspect",
    "task=tune",
    "task=compare runs=x",
    "+sweep=cnn",
    *(f"{word} datamodule.root=x" if word.endswith("image_folder") else word for word in EXPERIMENTS),
)


def finding(command: list[str], cfg: DictConfig | None = None) -> str | None:
    """The command and its traceback, if it is answered by one."""
    try:
        validation.check(configure(*command_line.quoted(command)) if cfg is None else cfg, command)
    except Exception as error:
        if not one_line(error):
            return f"{shlex.join(command)}\n{''.join(traceback.format_exception(error))}"
    return None


def nodes(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The dotted key of every value of a config, and the `_target_` of the node that holds it."""
    target = str(cfg["_target_"]) if "_target_" in cfg else ""
    for key in map(str, cfg):
        child = cfg._get_node(key)
        yield prefix + key, target
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing()):
            yield from nodes(child, f"{prefix}{key}.")


def with_odd_values(keys: list[str], base: str, cfg: DictConfig, values: list[object]) -> list[str]:
    """What is found if each key gets each value."""
    findings = []
    for key in keys:
        for value in values:
            changed = cfg.copy()
            try:
                OmegaConf.update(changed, key, value, merge=False, force_add=True)
            except Exception as error:
                assert one_line(error), (base, key, value)
                continue
            findings.append(finding([*base.split(), f"{key}={str(value)[:100]}"], changed))
    return [text for text in findings if text]


def test_odd_value_of_any_key_is_answered_in_one_line() -> None:
    cfg, rng = configure(), random.Random(0)
    keys = [key for key, _ in nodes(cfg)]
    for key in rng.sample(keys, 30):
        findings = with_odd_values([key], "", cfg, rng.sample(ODD_VALUES, 2))
        assert not findings, "\n".join(findings)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_odd_value_of_every_key_is_answered() -> None:
    tried: set[tuple[str, str]] = set()
    for base in BASES:
        cfg = configure(*base.split())
        untried = set(nodes(cfg)) - tried
        tried |= untried
        findings = with_odd_values(sorted(key for key, _ in untried), base, cfg, list(ODD_VALUES))
        assert not findings, "\n".join(findings)


@cache
def keys_of_files() -> list[str]:
    """Every dotted key of every file under conf/, as a command line writes it, and the config groups."""
    keys = {"run", "init_from", "input", "output", "runs", "format", "hydra.job.chdir"}
    for path in CONF.rglob("*.yaml"):
        file = OmegaConf.load(path)
        assert isinstance(file, DictConfig)
        header = path.read_text(encoding="utf-8").partition("\n")[0]
        group = path.parent.relative_to(CONF).as_posix()
        package = header.partition("# @package ")[2] or group.replace("/", ".").lstrip(".")
        prefix = "" if package == "_global_" or group == "." else f"{package}."
        keys |= {prefix + key for key in flat(OmegaConf.to_container(file)) if not key.startswith("defaults")}
        keys.add(group)
    return sorted(keys - {"."})


def mutated(text: str, rng: random.Random) -> str:
    """A text with a character lost, repeated, exchanged or replaced by one that has a meaning in an override."""
    if not text:
        return text
    position = rng.randrange(len(text))
    middle = rng.choice(["", text[position] * 2, rng.choice("._/@~+-:$ {}[]()'\\é"), text[position].swapcase()])
    return text[:position] + middle + text[position + 1 :]


def fuzzed_command(rng: random.Random) -> list[str]:
    """One to three overrides with wrong keys and values, after a base command."""
    words = rng.choice(BASES).split()
    for _ in range(rng.randint(1, 3)):
        key, value = rng.choice(keys_of_files()), rng.choice(ODD_WORDS)
        if rng.random() < 0.4:
            key = mutated(key, rng)
        if rng.random() < 0.2:
            value = mutated(value, rng)
        prefix = rng.choice(["", "", "", "+", "++", "~"])
        words.append(f"{prefix}{key}" if prefix == "~" and rng.random() < 0.7 else f"{prefix}{key}={value}")
    return words


def findings_of(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [text for text in (finding(fuzzed_command(rng)) for _ in range(count)) if text]


def test_fuzzed_commands_are_answered_in_one_line() -> None:
    findings = findings_of(seed=0, count=8)
    assert not findings, "\n".join(findings)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1, 11))
def test_two_thousand_fuzzed_commands_are_answered(seed: int) -> None:
    findings = findings_of(seed, count=200)
    assert not findings, "\n".join(findings)
