"""One MLflow run for a run's folder, with each epoch once, whatever interrupts it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conf.errors import UserError
from conf.files import read_rows
from tests.conftest import TINY

pytest.importorskip("mlflow")
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from lit_modules.loggers.mlflow import MLflow

# MLflow's own calls of SQLAlchemy and of other packages
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A logs_dir with an MLflow database, whose tables take seconds to create."""
    folder = tmp_path_factory.mktemp("mlflow") / "logs"
    MLflow(str(folder / "x"), str(folder), "x", uri(folder), False).log_hyperparams({})
    return folder


def uri(logs: Path) -> str:
    return f"sqlite:///{logs}/mlflow.db"


def runs_of(logs: Path, experiment_name: str) -> list[Run]:
    client = MlflowClient(uri(logs))
    experiment = client.get_experiment_by_name(experiment_name)
    return list(client.search_runs([experiment.experiment_id]))


def steps(logs: Path, run: Run, score: str) -> list[int]:
    return [point.step for point in MlflowClient(uri(logs)).get_metric_history(run.info.run_id, score)]


def test_resumed_run_is_one_mlflow_run_with_each_epoch_once(run: Callable[..., Path], logs: Path) -> None:
    tracker = ("logger=[default,mlflow]", f"logs_dir={logs}")
    folder = run(*TINY, *tracker, "name=resumed", f"run_dir={logs / 'resumed' / 'now'}", "trainer.max_epochs=3")
    for epoch in (1, 2):
        (folder / "checkpoints" / f"epoch={epoch:03d}.ckpt").unlink()
    (folder / "checkpoints" / "last.ckpt").unlink()
    (folder / "checkpoints" / "last.ckpt").symlink_to("epoch=000.ckpt")
    run(f"run={folder}", *tracker, "trainer.max_epochs=4", "logger.mlflow.artifacts=true")
    (tracked,) = runs_of(logs, "resumed")
    assert (tracked.info.run_name, tracked.info.status) == ("resumed/now", "FINISHED")
    rows = read_rows(folder / "metrics.csv")
    for score in rows[0].keys() - {"epoch"}:
        assert steps(logs, tracked, score) == [0, 1, 2, 3], score
    assert tracked.data.metrics["train/loss"] == pytest.approx(float(rows[3]["train/loss"]))
    assert tracked.data.metrics["val_best/f1"] == pytest.approx(max(float(row["val/f1"]) for row in rows))
    assert steps(logs, tracked, "test/acc") == [3, 4]  # of each fit
    assert tracked.data.params["lit_module.net"] == "CNN"
    assert not [score for score in tracked.data.metrics if "_likelihood/" in score]
    artifacts = MlflowClient(uri(logs)).list_artifacts(tracked.info.run_id)
    assert [artifact.path for artifact in artifacts] == ["model.pt"]
    assert list((logs / "mlartifacts").rglob("model.pt"))


def logger(logs: Path, name: str, tracking_uri: str = "") -> MLflow:
    return MLflow(str(logs / name / "now"), str(logs), name, tracking_uri or uri(logs), False)


def test_new_run_in_the_folder_of_a_removed_one_is_another(logs: Path) -> None:
    for _ in range(2):
        logger(logs, "removed").log_hyperparams({})
    assert len(runs_of(logs, "removed")) == 2


def test_parameters_keep_their_first_values(logs: Path) -> None:
    folder = logs / "extended" / "now"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    for epochs in (2, 3):
        logger(logs, "extended").log_hyperparams({"trainer": {"max_epochs": epochs, f"new (in {epochs})": "x" * 1000}})
    (tracked,) = runs_of(logs, "extended")
    assert tracked.data.params == {
        "trainer.max_epochs": "2",
        "trainer.new__in_2_": "x" * 250,
        "trainer.new__in_3_": "x" * 250,
    }


def test_scores_are_logged_when_mlflow_answers_again(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = logger(logs, "gone")
    tracker.log_hyperparams({})

    def fail(*arguments: object, **options: object) -> None:
        raise MlflowException("no server\n")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", fail)
        for epoch in range(2):
            tracker.log_metrics({"train/loss": 1.0}, epoch)
        tracker.log_files(logs, [])
    output = capsys.readouterr().err
    assert output.startswith("mlflow: no server; training continues, ") and output.count("\n") == 2
    assert output.endswith("mlflow: the last scores are not logged; metrics.csv and summary.json hold them\n")
    tracker.log_metrics({"train/loss": 1.0}, 2)
    (tracked,) = runs_of(logs, "gone")
    assert steps(logs, tracked, "train/loss") == [0, 1, 2]
    tracker.finalize("success")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("place", ["nonsense://x", "sqlite:///{logs}/no_database"])
def test_tracking_uri_of_no_mlflow_is_one_line(logs: Path, place: str) -> None:
    (logs / "no_database").write_text("text " * 100)
    with pytest.raises(UserError, match=r"^logger\.mlflow: .*; correct logger\.mlflow\.tracking_uri, or train"):
        logger(logs, "nowhere", place.format(logs=logs)).log_hyperparams({})


def test_nothing_is_written_before_the_run_starts(tmp_path: Path) -> None:
    logger(tmp_path, "refused")
    assert not list(tmp_path.iterdir())
