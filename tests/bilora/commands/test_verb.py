"""What all verbs of the command have in common."""

from __future__ import annotations

import pytest

from bilora.commands.verb import Verb
from bilora.engines.settings import LevelSettings


@pytest.mark.parametrize("together", [False, True])
def test_several_processes_are_refused_unless_they_work_together(
    together: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = []
    verb = Verb("show", "Print.", LevelSettings, done.append, together=together)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert verb.run(["--batch-size", "4"]) == (0 if together else 2)
    assert done == ([LevelSettings(batch_size=4)] if together else [])
    said = "bilora show runs in one process, and torchrun has started 2; several train together in bilora train"
    assert (said in capsys.readouterr().err) == (not together)
