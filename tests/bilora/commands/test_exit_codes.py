"""Exit codes of programs and verbs; tests/benchmarks has programs from end to end."""

import errno
import warnings
from typing import Any, NoReturn

import pytest
from safetensors import SafetensorError

from bilora import errors
from bilora.commands.exit_codes import exit_code
from bilora.commands.verb import Verb
from bilora.engines.settings import LevelSettings
from bilora.metrics.metric import UndefinedMetricWarning

pytestmark = pytest.mark.usefixtures("own_handler")


FULL = "I/O error: No space left on device (os error 28)"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def ended_by(error: BaseException) -> int:
    def work(words: object) -> NoReturn:
        raise error

    return exit_code(work, program="example.py")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (errors.DataError("a.csv:3: bad"), 2, "a.csv:3: bad"),
        (errors.SettingsError("rank is 0"), 2, "rank is 0"),
        (errors.DivergedError("loss nan"), 3, "loss nan"),
        (errors.SelfCheckError("differs"), 1, "differs"),
        (errors.ProcessesError("lost"), 1, "lost"),
        (errors.ResourceError("no room"), 4, "no room"),
        (OSError(errno.ENOSPC, "No space left"), 4, "[Errno 28] No space left; make room, and start it again"),
        (SafetensorError(FULL), 4, f"{FULL}; make room, and start it again"),
        (caused(errors.SettingsError("a cannot be written"), OSError(errno.EDQUOT, "")), 4, "a cannot be written"),
        (caused(errors.SettingsError("a cannot be written"), OSError(errno.EACCES, "")), 2, "a cannot be written"),
        (errors.InterruptedRun("SIGTERM", number=15), 143, "SIGTERM"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_goes_wrong_is_a_line_and_a_code(error: BaseException, code: int, message: str, capsys: Any) -> None:
    assert ended_by(error) == code
    assert capsys.readouterr().err == f"example.py: error: {message}\n"


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("category", [RuntimeWarning, UndefinedMetricWarning])
def test_a_warning_of_ours_is_a_line_without_a_place(category: type[Warning], capsys: Any) -> None:
    assert exit_code(lambda words: warnings.warn("f1 is undefined", category, stacklevel=1), program="example.py") == 0
    assert capsys.readouterr().err == "example.py: warning: f1 is undefined\n"


def test_a_warning_of_another_library_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="theirs"):
        exit_code(lambda words: warnings.warn("theirs", UserWarning, stacklevel=1), program="example.py")
    assert "theirs" not in capsys.readouterr().err


def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        ended_by(ZeroDivisionError())


@pytest.mark.parametrize("together", [False, True])
def test_several_processes_are_refused_unless_they_work_together(
    together: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = []
    verb = Verb("show", "Print.", LevelSettings, done.append, together=together)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert verb.run(["--batch-size", "4"]) == (0 if together else 2)
    assert done == ([LevelSettings(batch_size=4)] if together else [])
    message = "bilora show runs in one process, and torchrun has started 2; several train together in bilora train"
    assert (message in capsys.readouterr().err) == (not together)
