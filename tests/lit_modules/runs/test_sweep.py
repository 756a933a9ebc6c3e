"""A study ends with each of its trials finished once, whoever was killed meanwhile, and never sees the test split."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from conf import schema, validation
from conf.errors import UserError
from lit_modules.classifier import LitClassifier
from lit_modules.runs import sweep
from lit_modules.runs.search_space import experiment
from tests.conftest import DRAWN, ROOT, TINY, configure

Command = Callable[..., subprocess.CompletedProcess[str]]
LR = "lit_module.optimizer.lr"
SPACE = f"+space={{{LR}:{{low:0.001,high:0.1,log:true}},lit_module.net.dropout:[0,0.2]}}"

# Stands for train.py where a study's own doings are tested: a run of three epochs, whose score is its rate, and which
# does what its dropout says. It goes on where it was, and notes when it was there.
RUN = """
import csv, os, signal, sys, time
from pathlib import Path
options = dict(argument.split("=", 1) for argument in sys.argv[1:])
folder, lr = Path(options["run_dir"].strip("'")), float(options["lit_module.optimizer.lr"])
fate, began = options["lit_module.net.dropout"], time.time()
folder.mkdir(exist_ok=True)
if fate == "0.5":
    sys.exit("error: the device's memory is full")
if fate == "0.6":
    os.kill(os.getpid(), signal.SIGKILL)
for epoch in range(3):
    time.sleep({"0.2": 0.3, "0.7": 0.01 + 100 * (epoch > 1)}.get(fate, 0.01))
    rows = [(e, lr * (e + 1)) for e in range(epoch + 1)]
    text = "epoch,val/f1\\n" + "".join(f"{e},{score}\\n" for e, score in rows)
    (folder / "new").write_text(text)
    os.replace(folder / "new", folder / "metrics.csv")
with open(folder.parent.parent / "done.csv", "a") as file:
    csv.writer(file).writerow([folder.name, began, time.time(), options["test"], os.environ["LITMUS_TRIAL"]])
"""

# A process of a study whose runs are those.
STUDY = """
import sys
from lit_modules.runs import sweep
from tests.conftest import configure
sweep.POLL_SECONDS = 0.02
sweep.check_space = lambda cfg: None
sweep.draw = lambda *_: None
texts = sys.argv[1:]
sweep.sweep(configure(*texts), texts)
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts one process of a study in the folder `study`."""
    (tmp_path / "run.py").write_text(RUN)
    code = STUDY.replace("import sys", f"import sys\nsys.argv[0] = {str(tmp_path / 'run.py')!r}", 1)

    def start(*texts: str, folder: str = "study") -> subprocess.Popen[str]:
        place = f"run={tmp_path / folder}" if (tmp_path / folder).exists() else f"run_dir={tmp_path / folder}"
        begun = [] if (tmp_path / folder).exists() else ["+sweep=optuna"]
        return subprocess.Popen(
            [sys.executable, "-c", code, *begun, *texts, place],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    return start


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def trials(folder: Path) -> list[FrozenTrial]:
    storage = f"sqlite:///{folder}/study.db"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).trials


def done(folder: Path) -> list[list[str]]:
    """Of each run that came to its end: trial, beginning, end, test, trial."""
    return sorted(line.split(",") for line in (folder / "done.csv").read_text().splitlines())


@pytest.mark.slow
def test_study_killed_twice_ends_as_one_never_killed(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    finish(start(SPACE, folder="whole"))
    for survivors, count in ((False, 4), (True, 11)):
        process = start(*([] if (tmp_path / "study").exists() else [SPACE]))
        wait_until(lambda count=count: len(list((tmp_path / "study").glob("trials/*.log"))) >= count, process)  # type: ignore[misc]
        (process.kill if survivors else lambda pid=process.pid: os.killpg(pid, signal.SIGKILL))()
        process.communicate()
    finish(start())
    whole, killed = trials(tmp_path / "whole"), trials(tmp_path / "study")
    assert [trial.state for trial in killed] == [trial.state for trial in whole]
    assert [(trial.number, trial.params, trial.value) for trial in killed] == [
        (trial.number, trial.params, trial.value) for trial in whole
    ]
    assert len(killed) == 20
    assert len({trial.params[LR] for trial in killed}) == 20


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not holds():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_share_a_study(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    first = start(SPACE.replace("[0,0.2]", "[0.2]"), "trials=12", "pruner=null")
    wait_until(lambda: (tmp_path / "study" / "study.db").exists(), first)
    second = start("workers=2")
    outputs = [finish(first), finish(second)]
    assert [trial.state for trial in trials(tmp_path / "study")] == [TrialState.COMPLETE] * 12
    assert [line[0] for line in done(tmp_path / "study")] == [f"{number:03d}" for number in range(12)]
    assert {line[3] for line in done(tmp_path / "study")} == {"false"}
    assert all("/12  lit_module" in output for output in outputs), "both had a share"


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Runs a study of such runs in this process."""
    (tmp_path / "run.py").write_text(RUN)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "run.py")])
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(sweep, "draw", lambda *_: None)
    monkeypatch.setattr(sweep, "check_space", lambda _: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def begin(*texts: str) -> Path:
        cfg = configure(*texts, f"run_dir={tmp_path / 'study'}")
        sweep.sweep(cfg, list(texts))
        return tmp_path / "study"

    return begin


def test_grid_runs_each_combination_once_and_several_at_a_time(begin: Callable[..., Path]) -> None:
    folder = begin("+sweep=grid", "workers=3", f"+space={{{LR}:[0.1,0.2,0.3],lit_module.net.dropout:[0,0.2]}}")
    found = [tuple(trial.params.values()) for trial in trials(folder)]
    assert found == list(itertools.product([0.1, 0.2, 0.3], [0, 0.2]))
    assert {trial.state for trial in trials(folder)} == {TrialState.COMPLETE}
    runs = [(float(line[1]), float(line[2])) for line in done(folder)]
    assert len(runs) == 6
    at_a_time = [sum(other[0] <= run[0] < other[1] for other in runs) for run in runs]
    assert 2 <= max(at_a_time) <= 3


def test_runs_that_fail_are_counted_and_the_hopeless_are_stopped(
    begin: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pruner = ("pruner.n_startup_trials=2", "pruner.n_warmup_steps=0")
    points = f"+space={{lit_module.net.dropout:[0,0.5,0.6,0.7],{LR}:[0.01,0.1]}}"
    folder = begin("+sweep=optuna", "sampler=null", *pruner, points, "trials=7")
    output = capsys.readouterr().out
    states = [trial.state.name for trial in trials(folder)]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "FAIL", "FAIL", "FAIL", "PRUNED"]
    assert output.count("failed: error: the device's memory is full") == 2
    assert output.count("failed: -9") == 2
    assert "pruned after epoch 1: 0.0100" in output
    assert "best trial 2: val/f1 0.3000" in output


def test_study_of_failures_says_so(begin: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"^space: no trial completed; see .*/trials/000\.log$"):
        begin("+sweep=grid", f"+space={{lit_module.net.dropout:[0.5],{LR}:[0.1]}}")


def test_study_that_is_there_is_gone_on_with_by_its_folder_alone(begin: Callable[..., Path], tmp_path: Path) -> None:
    texts = ("+sweep=optuna", f"+space={{{LR}:[0.1,0.2],lit_module.net.dropout:[0]}}", "seed=3")
    folder = begin(*texts, "trials=2")
    with pytest.raises(UserError, match=f"^run_dir: {folder} already contains a run; resume it with run={folder}"):
        begin(*texts)
    cfg = configure(f"run={folder}", "trials=3")
    sweep.sweep(cfg, [f"run={folder}", "trials=3"])
    assert cfg.overrides == ["seed=3"] and cfg.seed == 3
    assert len(trials(folder)) == 3
    with pytest.raises(UserError, match=r"^seed=4: cannot change in an existing study; "):
        sweep.sweep(configure(f"run={folder}", "seed=4"), [f"run={folder}", "seed=4"])


@pytest.mark.parametrize(
    "foreign", ["+hydra.job.env_set.PYTHONPATH=/evil", "--config-dir=/evil", "-m", " hydra/launcher=evil", "run=/evil"]
)
def test_study_of_somebody_else_runs_nothing_of_hydra(begin: Callable[..., Path], foreign: str) -> None:
    folder = begin("+sweep=grid", f"+space={{{LR}:[0.1],lit_module.net.dropout:[0]}}")
    saved = OmegaConf.load(folder / "config.yaml")
    saved.overrides = [*saved.overrides, foreign]
    OmegaConf.save(saved, folder / "config.yaml")
    with pytest.raises(UserError, match=r"config\.yaml: .* is no setting of a trial that a study saves"):
        sweep.sweep(configure(f"run={folder}"), [f"run={folder}"])


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        (["+sweep=optuna"], "space: is not set; add space=…"),
        (["+sweep=optuna", "+space={trainer.max_epochs:[abc]}"], "trainer.max_epochs: 'abc' does not fit; "),
        (["+sweep=optuna", "+space={seed:{low:3,high:1}}"], "space.seed: {'low': 3, 'high': 1} is not a valid "),
        (["+sweep=optuna", "+space={seed:5}"], "space.seed: 5 is not a valid choice ("),
        (["+sweep=optuna", "+space={seed:[1]}", "trials=0"], "trials, workers: must be at least 1; "),
        (["+sweep=optuna", "+space={seed:[1]}", "workers=0"], "trials, workers: must be at least 1; "),
        (["+sweep=grid", "+space={seed:{low:1,high:3}}"], "space.seed: a grid needs values; "),
    ],
)
def test_invalid_space_is_rejected_before_writing(tmp_path: Path, texts: list[str], line: str) -> None:
    with initialize_config_dir(str(ROOT / "conf"), **schema.VERSION_BASE), pytest.raises(UserError) as caught:
        cfg = compose("train", [*texts, f"run_dir={tmp_path / 'study'}"])
        validation.check(cfg)
        sweep.sweep(cfg, texts)
    assert str(caught.value).startswith(line)
    assert not (tmp_path / "study").exists()


def test_experiment_file_says_what_a_command_line_does(tmp_path: Path) -> None:
    texts = ["+experiment=digits", "lit_module/optimizer=sgd", "datamodule/augment=[crop,flip]", f"{LR}=0.5"]
    texts += ["lit_module.net.channels=[4, 8]", "++callbacks.dashboard=null", "~callbacks.predictions", "seed=3"]
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "best.yaml").write_text(f"# @package _global_\n{experiment(texts)}")
    written = configure("+experiment=best", f"hydra.searchpath=[file://{tmp_path}]")
    typed = configure(*texts)
    OmegaConf.set_struct(written, False)
    written.callbacks.pop("predictions")
    assert written == typed


def test_run_without_test_leaves_the_test_split_alone(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LitClassifier, "test_step", lambda *_: pytest.fail("the test split is sealed"))
    folder = run(*DRAWN, "test=false")
    assert not [name for name in json.loads((folder / "summary.json").read_text()) if name.startswith("test/")]
    assert not (folder / "predictions.csv").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_trials_of_real_runs_survive_two_kills(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    own = (
        "workers=2",
        "+experiment=digits",
        "+sweep=cnn",
        *TINY,
        "lit_module.net.channels=[4,8,8]",
        f"run_dir={folder}",
    )
    for count in (5, 12, None):
        texts = (f"run={folder}",) if folder.exists() else own
        process = subprocess.Popen(
            [sys.executable, "train.py", *texts], cwd=ROOT, text=True, stdout=subprocess.PIPE, start_new_session=True
        )
        if count:
            wait_until(lambda count=count: (folder / "trials" / f"{count:03d}").exists(), process)  # type: ignore[misc]
            time.sleep(5)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    output = finish(process)
    ended = trials(folder)
    assert [trial.number for trial in ended] == list(range(20))
    assert {trial.state for trial in ended} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert not [path for path in folder.rglob("summary.json") if '"test/' in path.read_text()]
    assert {path.name for path in (folder / "plots").iterdir()} >= {"optimization_history.png", "param_importances.png"}
    (retrain,) = [line.split(": ", 1)[1] for line in output.splitlines() if line.startswith("retrain it: ")]
    best = [*retrain.split()[2:], "trainer=debug", f"run_dir={tmp_path / 'best'}"]
    subprocess.run([sys.executable, "train.py", *best], cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "best" / "summary.json").is_file()
