"""Values of a command line are read as Hydra reads them, and quoted where it needs quotes."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from conf import command_line
from tests.conftest import configure
from tests.saved_runs import save


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("init_from=logs/a/checkpoints/epoch=002.ckpt", "logs/a/checkpoints/epoch=002.ckpt"),
        ("run_dir=runs/lr=0.01", "runs/lr=0.01"),
        ("run_dir=runs/lr=0.01,wd=0.1", None),
        ("run_dir='runs/lr=0.01'", "runs/lr=0.01"),
        (r"run_dir=runs/lr\=0.01", "runs/lr=0.01"),
        ("run_dir=a b=c", "a b=c"),
        ("++callbacks.x.file=a=b=c", "a=b=c"),
        ("seed=3", 3),
    ],
)
def test_own_file_names_with_an_equals_sign_need_no_quotes(word: str, value: object) -> None:
    (quoted,) = command_line.quoted([word])
    if value is None:  # with a comma it would be a sweep, or two words
        assert quoted == word
    else:
        assert OverridesParser.create().parse_override(quoted).value() == value


def test_a_sentence_needs_no_quotes() -> None:
    sentence = "Sorting, at night; it's for {food} = [1], (2) and 'x'"
    (quoted,) = command_line.quoted([f"intended_use={sentence}"])
    assert OverridesParser.create().parse_override(quoted).value() == sentence
    assert command_line.quoted(["intended_use='a,b'"]) == ["intended_use='a,b'"]


@pytest.mark.parametrize("word", ["seed=3", "x={a:b}", "-m", "+x=[1,2]", "--multirun", "x='a=b'", "x=${a}", "~x", "x="])
def test_other_words_stay_as_they_are(word: str) -> None:
    assert command_line.quoted([word]) == [word]


@pytest.mark.parametrize("escape", [r"{}", r"'{}'", r'"{}"'])
@pytest.mark.parametrize("name", ["run", "lr=0.01", "with space"])
def test_a_run_is_found_by_its_name_as_hydra_reads_it(tmp_path: Path, name: str, escape: str) -> None:
    save(tmp_path / name, "name=mine")
    (word,) = command_line.quoted([f"run={escape.format(tmp_path / name)}"])
    assert configure(word).name == "mine"


def test_a_run_is_found_by_a_name_with_escapes(tmp_path: Path) -> None:
    save(tmp_path / "a,b=c", "name=mine")
    escaped = str(tmp_path / "a,b=c").replace(",", r"\,").replace("=", r"\=")
    assert configure(f"run={escaped}").name == "mine"
