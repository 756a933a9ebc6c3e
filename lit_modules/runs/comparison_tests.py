"""Significance tests of two runs on the same test images, and of two configs on the same splits."""

from typing import Any

import numpy as np

from lit_modules.evaluation import significance
from lit_modules.runs.comparison import SCORES, Record, Run, encode_labels


def pair_records(runs: list[Run]) -> list[Record]:
    """One record per run with test predictions: paired tests against the first such run.

    Where configs were run on several splits, against the run of the first config on the same test images.
    """
    tested = [run for run in runs if "test" in run.predictions]
    records = []
    for position, run in enumerate(tested[1:], 1):
        is_reference = run.config == tested[0].config
        candidates = [other for other in (tested[:position] if is_reference else tested) if other is not run]
        same = [other for other in candidates if other.config == tested[0].config and _split(other) == _split(run)]
        if same:
            records.append(_pair(run, same[0]))
        elif not is_reference or _split_keys(run) == _split_keys(tested[0]):  # else its config on another split
            records.append(_pair(run, tested[0]))
    return records


def _split_keys(run: Run) -> list[Any]:
    return [run.settings.get(f"datamodule.{key}") for key in ("fold", "split_seed")]


def _split(run: Run) -> tuple[str, ...]:
    """The test images of a run."""
    return tuple(run.predictions["test"].files.tolist())


def _pair(run: Run, reference: Run) -> Record:
    record: Record = {"run": run.name, "reference": reference.name}
    files, true, predicted, classes = run.predictions["test"]
    reference_files, reference_true, reference_predicted, reference_classes = reference.predictions["test"]
    unshared = set(files) ^ set(reference_files)
    if unshared:
        return record | {"remark": f"different test images: {len(unshared)} occur in only one run"}
    if classes != reference_classes:
        return record | {"remark": "different classes"}
    num_relabelled = (~significance.all_right(true, reference_true)).sum()
    if num_relabelled:
        return record | {"remark": f"different labels: {num_relabelled} test images have another class"}
    labels = encode_labels(true, predicted, reference_predicted)
    correct = significance.all_right(true, predicted)
    reference_correct = significance.all_right(true, reference_predicted)
    only_run = int((correct & ~reference_correct).sum())
    only_reference = int((~correct & reference_correct).sum())
    differences = significance.bootstrap(_f1_difference, *labels)
    low, high = significance.interval(differences)
    return record | {
        "images": len(correct),
        "only run right": only_run,
        "only reference right": only_reference,
        "acc/difference": (only_run - only_reference) / len(correct),
        "acc/p (McNemar)": significance.mcnemar(only_run, only_reference),
        "f1/difference": float(_f1_difference(*labels, np.ones((1, len(correct)), np.int64))[0]),
        "f1/difference/low": low,
        "f1/difference/high": high,
        "f1/p (bootstrap)": significance.two_sided_p(differences),
        "remark": "",
    }


def _f1_difference(*labels_and_weights: np.ndarray) -> np.ndarray:
    true, first, second, weights = labels_and_weights
    return significance.macro_f1(true, first, weights) - significance.macro_f1(true, second, weights)


def split_records(runs: list[Run]) -> list[Record]:
    """One record per config: corrected t-test against the first config, on the splits that both were tested on.

    The scores of a config on one split are averaged over its seeds.
    """
    tested = [run for run in runs if run.config and "test" in run.predictions and "samples/train" in run.summary]
    by_config: dict[str, dict[tuple[str, ...], list[Run]]] = {}
    for run in tested:
        by_config.setdefault(run.config, {}).setdefault(_split(run), []).append(run)
    records = []
    for config in list(by_config)[1:]:
        reference = next(iter(by_config))
        splits = [split for split in by_config[config] if split in by_config[reference]]
        if len(splits) < 2:
            continue
        members = [run for split in splits for run in (*by_config[config][split], *by_config[reference][split])]
        ratio = np.mean([len(run.predictions["test"].files) / run.summary["samples/train"] for run in members])
        record: Record = {"config": config, "reference": reference, "splits": len(splits)}
        for score in SCORES:
            differences = [
                _mean(by_config[config][split], score) - _mean(by_config[reference][split], score) for split in splits
            ]
            test = significance.corrected_t(np.array(differences), float(ratio))
            record[f"{score}/difference"] = test.mean
            record[f"{score}/difference/low"], record[f"{score}/difference/high"] = test.interval
            record[f"{score}/p (corrected t)"] = test.p
        records.append(record)
    return records


def _mean(runs: list[Run], score: str) -> float:
    return float(np.mean([run.summary[f"test/{score}"] for run in runs]))
