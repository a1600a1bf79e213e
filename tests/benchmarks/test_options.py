"""Bad options of the programs that measure are refused before anything runs."""

import pytest
from programs import imported


@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        ("run_hypergradients", ["--draws", "0"], "--draws is 0 and --repeats is 5; each must be at least 1"),
        ("run_hypergradients", ["--only", "neuman"], "invalid choice: 'neuman'"),
        ("run_hypergradients", ["--output", __file__], "--output cannot be made"),
        ("run_length_groups", ["--rounds", "0"], "must be at least 1"),
        ("run_speed", ["--shapes", "16"], "--shapes"),
        ("run_speed", ["--shapes", "0x8"], "--shapes"),
        ("run_speed", ["--roads", "fast"], "--roads"),
        ("run_speed", ["--steps", "0"], "--steps must be at least 1"),
        ("run_speed", ["--rounds", "0"], "--rounds"),
    ],
)
def test_bad_options_end_with_two(
    program: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        imported(program).main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
