"""``bilora train`` from end to end on a tiny model: what it decides, what it writes, what it refuses."""

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import yaml
from peft import AutoPeftModelForSequenceClassification
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from bilora.artifacts.model_card import push_to_hub
from bilora.commands import train as train_command
from bilora.commands.command_line import parse_config
from bilora.commands.train import TRAIN
from bilora.commands.train_config import TrainConfig
from bilora.errors import DataError
from bilora.files.lock import locked
from bilora.report.report import ReportConfig, write_report
from bilora.runs.config import RunConfig
from bilora.runs.self_check import SelfCheck, Verdict
from bilora.tasks.kinds import read_task

# Of a run of few steps the best may be the first, where an adapter is still zero.
LAST = ["--keep-best", "false", "--early-stopping", "0"]


def short_words(command_run: Any, folder: Path, *more: str) -> list[str]:
    """Return the words of a run of eight steps that writes into a folder."""
    return [*command_run.words, "--output", str(folder), "--report-to", "[]", "--steps", "8", *LAST, *more]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_model_and_a_file_make_a_whole_run_folder(command_run: Any) -> None:
    assert command_run.code == 0
    assert "120 training rows, 24 of them D2; score: accuracy" in command_run.out
    assert "the text is in 'text'" in command_run.out
    assert "make it classification" in command_run.out
    names = {path.name for path in command_run.folder.iterdir()}
    files = {"config.yaml", "metrics.jsonl", "all_results.json", "trainer_state.json", "split.json", "spectrum.json"}
    assert names >= files | {"adapter", "lora", "label_map.json", "tensorboard"}
    for name in ("adapter", "lora"):
        assert f"self-check of {command_run.folder / name}: ok" in command_run.out
        names = {path.name for path in (command_run.folder / name).iterdir()}
        assert names >= {"adapter_config.json", "adapter_model.safetensors", "README.md"}
        # By it transformers would take the folder for one with a whole model.
        assert "config.json" not in names
        task, length = read_task(command_run.folder / name)
        assert (task.name, length) == ("reviews", 32)


# After a few steps all of the twelve validation rows may be of one class.
@pytest.mark.filterwarnings("ignore::bilora.metrics.metric.UndefinedMetricWarning")
def test_a_run_whose_method_is_left_out_tunes_itself_and_says_what_it_learned(
    command_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = short_words(command_run, tmp_path / "run")
    place = words.index("--method")
    code, printed = TRAIN.run([*words[:place], *words[place + 2 :]]), capsys.readouterr()
    assert code == 0, printed.err
    # A tenth is held out, since the second stage trains on D2 too; eight steps are far from saying anything.
    assert "108 training rows, 12 validation; score: accuracy" in printed.out
    assert (
        "self_tuned: 8 steps learning how strongly to regularise, then 8 steps training on all rows, on " in printed.out
    )
    assert re.search(r"^learned: adapters: decay \d.*how much each layer may move: ", printed.out, re.MULTILINE)
    assert "FAILED" not in printed.out
    results = read_json(tmp_path / "run" / "all_results.json")
    assert (results["method"], results["steps"]) == ("self_tuned", 16)
    assert [part["steps"] for part in results["stages"]] == [8, 8]
    assert results["scored_on"] == "validation"
    titles = ["learning how strongly to regularise", "training on all rows"]
    assert [part["title"] for part in results["stages"]] == titles
    page = write_report(ReportConfig([str(tmp_path / "run")]))
    text = page.read_text(encoding="utf-8")
    assert "What was learned" in text
    assert "steps 1 to 8: learning how strongly to regularise; steps 9 to 16: training on all rows" in text


def test_steps_and_validations_follow_from_epochs_of_the_lower_rows(command_run: Any) -> None:
    config = yaml.safe_load((command_run.folder / "config.yaml").read_text(encoding="utf-8"))
    # 4 epochs of 0.8 x 120 rows in batches of 16.
    assert config["steps"] == 24
    assert TrainConfig(epochs=4.0).steps_for(1000) == 200
    assert TrainConfig().run_config().steps == 1
    # A step passes 16 rows twice: a tenth of 768 passes is enough for 3.2 validations on the 24 rows of D2.
    assert config["validate_every"] == 8
    assert TrainConfig().run_config(steps=100).validate_every == 5


@pytest.mark.parametrize(("rows", "every"), [(10, 15), (50, 16), (100, 32), (1000, 300)])
def test_validations_take_a_tenth_of_the_training(rows: int, every: int) -> None:
    # A step passes 16 rows forward and backward: 9,600 passes of a row, of which 960 are for validations.
    assert TrainConfig().run_config(steps=300, validated=rows).validate_every == every


def test_the_config_that_is_written_is_one_of_train_and_of_a_comparison(command_run: Any) -> None:
    words = ["--config", str(command_run.folder / "config.yaml")]
    compared = parse_config(RunConfig, words, prog="", description="")
    assert (compared.method, compared.seed) == ("bilora", 3)
    assert TRAIN.parse(words).run_config() == compared


def test_the_best_parameters_by_the_loss_on_d2_are_kept(command_run: Any) -> None:
    results, state = (read_json(command_run.folder / name) for name in ("all_results.json", "trainer_state.json"))
    losses = {entry["step"]: entry["d2_loss"] for entry in state["log_history"] if "d2_loss" in entry}
    assert results["best_step"] == state["best_global_step"] == min(losses, key=lambda step: losses[step])
    assert results["d2_loss"] == pytest.approx(min(losses.values()), rel=1e-6)


def test_the_plain_lora_adapter_is_loaded_by_stock_peft(command_run: Any) -> None:
    model = AutoPeftModelForSequenceClassification.from_pretrained(command_run.folder / "lora")
    assert type(model.peft_config["default"]).__name__ == "LoraConfig"
    # And by transformers alone, from the folder of the adapter.
    names = {
        name
        for name, _ in AutoModelForSequenceClassification.from_pretrained(
            command_run.folder / "lora"
        ).named_parameters()
    }
    assert any("lora_A" in name for name in names)


def test_a_saved_adapter_that_differs_fails_the_self_check(
    command_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are damaged between saving and checking, as a bad disk would."""
    true_verdicts = SelfCheck.verdicts

    def damaged(self: SelfCheck, folder: Path) -> list[Verdict]:
        path = folder / "adapter" / "adapter_model.safetensors"
        save_file({name: tensor + 0.01 for name, tensor in load_file(path).items()}, path)
        (folder / "adapter" / "base_fingerprint.json").unlink()  # by which a load would see it
        return true_verdicts(self, folder)

    monkeypatch.setattr(train_command.SelfCheck, "verdicts", damaged)
    assert TRAIN.run(short_words(command_run, tmp_path / "run")) == 1
    printed = capsys.readouterr()
    assert f"self-check of {tmp_path / 'run' / 'adapter'}: FAILED" in printed.out
    assert f"self-check of {tmp_path / 'run' / 'lora'}: ok" in printed.out
    assert "do not use it" in printed.err
    assert not Verdict(Path("adapter"), float("nan"), 1e-6).passed


@pytest.mark.parametrize("method", ["lora", "adalora", "pseudo_svd"])
def test_every_kind_of_adapter_passes_in_place_of_an_earlier_run(
    method: str, command_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(command_run.folder, tmp_path / "run")
    words = short_words(command_run, tmp_path / "run", "--method", method)
    assert TRAIN.run(words) == 2
    assert "is not empty" in capsys.readouterr().err
    assert TRAIN.run([*words, "--overwrite"]) == 0, capsys.readouterr().err
    assert f"self-check of {tmp_path / 'run' / 'adapter'}: ok" in capsys.readouterr().out
    results = read_json(tmp_path / "run" / "all_results.json")
    assert (results["method"], results["steps"]) == (method, 8)
    assert "overwrite: true" not in (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("fault", [["--train-rows", "9000"], ["--model", "none"], ["--lower.batch-size", "99"]])
def test_nothing_is_removed_for_a_run_that_cannot_begin(
    fault: list[str], command_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(command_run.folder, tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    assert TRAIN.run([*command_run.words, "--output", str(tmp_path / "run"), "--overwrite", *fault]) == 2
    assert "error: " in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def base_of(tiny_encoder: Path, folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Return the folder of a random base with the tokenizer of the tiny one."""
    shutil.copytree(tiny_encoder, folder)
    # Without dropout: a batch in parts has other masks than the whole one.
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    torch.manual_seed(0)
    BertModel(BertConfig.from_pretrained(tiny_encoder, **dropout)).to(dtype).save_pretrained(folder)
    return folder


def deep_base(tokenizer: Any, folder: Path) -> Path:
    """Return the folder of a decoder of sixteen layers that makes much of its own rounding."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 16, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=300, initializer_range=0.3, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore:.*is undefined")  # the predictions of a few steps are of one class
@pytest.mark.parametrize("kind", ["bfloat16", "float16", "deep"])
def test_the_rounding_of_a_type_or_of_depth_is_no_fault(
    kind: str, command_run: Any, tiny_encoder: Path, causal_tokenizer: Any, tmp_path: Path, capsys: Any
) -> None:
    if kind == "deep":
        base = deep_base(causal_tokenizer, tmp_path / "base")
    else:
        base = base_of(tiny_encoder, tmp_path / "base", dtype=getattr(torch, kind))
    strong = """{"bilora": {"target_modules": "all-linear", "rank": 16, "alpha": 64.0}}"""
    words = short_words(command_run, tmp_path / "run", "--model", str(base), "--method-settings", strong)
    code, printed = TRAIN.run(words), capsys.readouterr()
    assert code == 0, printed
    assert printed.out.count(": ok") == 2
    weights = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def first_steps(words: list[str], folder: Path, *batches: tuple[str, int, int]) -> list[float]:
    """Return the losses and gradient norms of the first step of both levels, with their batches and accumulation."""
    sizes = [
        word
        for level, size, count in batches
        for word in (f"--{level}.batch-size", str(size), f"--{level}.accumulation", str(count))
    ]
    # No clipping, which would make every norm the same.
    whole = ["--steps", "2", "--unroll-steps", "1", "--lower.gradient-clipping", "0", "--upper.gradient-clipping", "0"]
    assert TRAIN.run([*words, "--output", str(folder), "--report-to", "[]", *whole, *sizes, *LAST]) == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    names = ("lower_loss", "lower_gradient_norm", "upper_loss", "upper_gradient_norm")
    return [line[name] for line in lines for name in names if line.get(name) is not None]


@pytest.mark.filterwarnings("ignore:.*is undefined")
@pytest.mark.parametrize("kind", ["classes", "tokens"])
def test_micro_batches_of_unequal_weight_add_up_to_the_step_of_one_batch(
    kind: str, command_run: Any, tiny_encoder: Path, tmp_path: Path
) -> None:
    """One class in eight weighs seven times as much, and sentences are of 2 or of 25 words."""
    rows = [{"text": f"film {n} was fine", "label": "rare" if n % 8 == 1 else "common"} for n in range(80)]
    if kind == "tokens":
        texts = [["film"] * (25 if n % 3 == 1 else 2) for n in range(80)]
        rows = [{"text": text, "label": ["O"] * (len(text) - 1) + ["B-X"]} for text in texts]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    base = str(base_of(tiny_encoder, tmp_path / "base"))
    words = [*command_run.words, "--model", base, "--train-file", str(path), "--class-weights", "auto"]
    one = first_steps(words, tmp_path / "one", ("lower", 8, 1), ("upper", 8, 1))
    four = first_steps(words, tmp_path / "four", ("lower", 2, 4), ("upper", 2, 4))
    assert len(one) >= 4
    assert four == pytest.approx(one, abs=1e-5)


@pytest.mark.filterwarnings("always:.*left out:RuntimeWarning")
def test_numbers_are_learned_from_a_csv_of_quantities(
    tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"word {number % 7} and more,{number % 7 / 2}\n" for number in range(60)]
    path = tmp_path / "sizes.csv"
    path.write_text("body,label\n" + "".join(lines) + "cut\n", encoding="utf-8")
    words = ["--model", str(tiny_encoder), "--train-file", str(path), "--output", str(tmp_path / "run"), *LAST]
    sizes = "--max-length 16 --steps 8 --lower.batch-size 4 --upper.batch-size 4 --lower.learning-rate 0.05"
    words += [*sizes.split(), "--on-bad-row", "skip", "--device", "cpu"]
    assert TRAIN.run(words) == 0, capsys.readouterr().err
    printed, warned = capsys.readouterr()
    assert f"warning: {path}: 1 of 61 rows is left out (on_bad_row: skip)\n  {path}:62: has 1 fields" in warned
    assert read_json(tmp_path / "run" / "all_results.json")["skipped_rows"] == {str(path): 1}
    assert "make it regression" in printed
    assert "the text is in 'body'" in printed
    assert printed.count("self-check") == printed.count(": ok") == 2


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--train-file no.jsonl", "no.jsonl: cannot be read"),
        ("--method bilora lora", "one run has one method; bilora compare runs several"),
        ("--seeds 0 1", "one run has one seed"),
        ("--steps 0", "it must be at least 1, or null"),
        ("--validate-every 0", "early_stopping and keep_best look at validations"),
        ("--push-to-hub true", "push_to_hub needs it"),
        ("--report-to tensorbord", "Did you mean 'tensorboard'?"),
        ("--watch f1", "watch"),
        ("--epoch 3", "Did you mean '--epochs'?"),
    ],
)
def test_bad_input_ends_with_2_before_a_model_is_read(
    words: str, error: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_command, "prepare", None)
    try:
        assert TRAIN.run(words.split()) == 2
    except SystemExit as ended:
        assert ended.code == 2
    assert error in capsys.readouterr().err


def test_the_adapter_and_its_card_go_to_the_hub_when_asked(
    command_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = MagicMock(endpoint="https://hub.example")
    monkeypatch.setattr("bilora.artifacts.model_card.HfApi", lambda: hub)
    words = short_words(command_run, tmp_path / "run", "--push-to-hub", "true", "--hub-model-id", "me/model")
    assert TRAIN.run(words) == 0
    hub.create_repo.assert_called_once_with("me/model", private=True, exist_ok=True)
    (uploaded,) = (call.kwargs for call in hub.upload_folder.call_args_list)
    assert uploaded["repo_id"] == "me/model"
    names = {path.name for path in Path(uploaded["folder_path"]).iterdir()}
    assert names >= {"README.md", "adapter_model.safetensors"}
    assert "uploaded: https://hub.example/me/model" in capsys.readouterr().out


def test_a_hub_that_refuses_leaves_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="was not uploaded to 'me/model'.*it is whole on this machine"):
        push_to_hub(tmp_path, repository="me/model")


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    command_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert TRAIN.run(short_words(command_run, whole, "--watch", "score")) == 0

    class Stopping(SelfCheck):
        """As a SIGTERM in the fourth step would."""

        def on_step(self, engine: Any, record: Any) -> None:
            if record.step == 4:
                signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(train_command, "SelfCheck", Stopping)
        assert TRAIN.run(short_words(command_run, part, "--watch", "score")) == 143
    assert f"go on with bilora train --resume {part}" in capsys.readouterr().err
    assert not (part / "all_results.json").exists()
    assert TRAIN.run(["--resume", str(part)]) == 0
    for name in ("metrics.jsonl", "adapter/adapter_model.safetensors", "train.yaml"):
        assert (part / name).read_bytes() == (whole / name).read_bytes(), name
    assert TRAIN.run(["--resume", str(part)]) == 0
    assert "finished before" in capsys.readouterr().out
    assert TRAIN.run(["--resume", str(tmp_path)]) == 2


def test_what_was_cut_off_after_the_training_is_done_again(
    command_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever came last: here the export, of which a killed process has left its scratch folder."""
    folder = Path(shutil.copytree(command_run.folder, tmp_path / "run"))
    (folder / "finished.json").write_text('{"finished": false}')
    shutil.rmtree(folder / "lora")
    (folder / "lora" / ".tmp-left").mkdir(parents=True)
    assert TRAIN.run(["--resume", str(folder)]) == 0
    assert read_json(folder / "finished.json")["self_check"].keys() == {"adapter", "lora"}
    for name in ("metrics.jsonl", "lora/adapter_model.safetensors", "adapter/adapter_model.safetensors"):
        assert (folder / name).read_bytes() == (command_run.folder / name).read_bytes()
    capsys.readouterr()
    assert TRAIN.run(["--resume", str(folder)]) == 0
    assert "finished before" in capsys.readouterr().out


def test_the_folder_of_a_run_that_is_alive_is_left_alone(
    command_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(command_run.folder, tmp_path / "run"))
    (folder / "finished.json").write_text('{"finished": false}')
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with locked(folder):
        assert TRAIN.run(["--resume", str(folder)]) == 2
    assert "is in use by process" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_where_a_validation_set_is_d2_nothing_is_drawn_anew_or_chosen_by_the_scored_set() -> None:
    run = TrainConfig(task="e2e").run_config(steps=40, upper_given=True)
    assert (run.refresh, run.early_stopping, run.keep_best) == (0, 0, False)
    # What the user says stays said.
    assert TrainConfig(task="e2e", refresh=1).run_config(steps=40, upper_given=True).refresh == 1
