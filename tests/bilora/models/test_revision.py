"""``--revision`` pins the base: whoever loads it asks for the revision, and the adapter and its card name it."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from bilora.commands.train import TRAIN
from bilora.errors import SettingsError
from bilora.models.pretrained import load_tokenizer
from bilora.runs.trained import open_trained
from bilora.tasks.catalog import TASKS


# PEFT asks the hub for the config of the base as it saves an adapter.
@pytest.mark.filterwarnings("ignore:Could not find a config file in owner/tiny:UserWarning")
def test_a_revision_reaches_every_load_and_every_file(
    tiny_encoder: Path, review_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any]] = []

    def on_the_hub(kind: Any) -> None:
        load = kind.from_pretrained

        def loaded(place: str, *args: Any, **options: Any) -> Any:
            # The tokenizer asks its own folder for a config too.
            if place != "owner/tiny":
                return load(place, *args, **options)
            asked.append((kind.__name__, options.pop("revision", None)))
            return load(str(tiny_encoder), *args, **options)

        monkeypatch.setattr(kind, "from_pretrained", loaded)

    for kind in (AutoConfig, AutoTokenizer, AutoModelForSequenceClassification):
        on_the_hub(kind)
    words = ["--train-file", str(review_file), "--model", "owner/tiny", "--revision", "v1", "--method", "bilora"]
    words += ["--max-length", "16", "--steps", "4", "--device", "cpu", "--output", str(tmp_path / "run")]
    words += ["--keep-best", "false", "--early-stopping", "0"]
    assert TRAIN.run(words) == 0
    trained = len(asked)
    assert open_trained(tmp_path / "run").tokenizer.revision == "v1"
    assert {name for name, _ in asked[trained:]} == {name for name, _ in asked[:trained]} == {
        "AutoConfig", "AutoTokenizer", "AutoModelForSequenceClassification"
    }  # fmt: skip
    assert {revision for _, revision in asked} == {"v1"}
    for adapter in ("adapter", "lora"):
        config = json.loads((tmp_path / "run" / adapter / "adapter_config.json").read_text(encoding="utf-8"))
        assert (config["base_model_name_or_path"], config["revision"]) == ("owner/tiny", "v1")
        card = (tmp_path / "run" / adapter / "README.md").read_text(encoding="utf-8")
        assert "`owner/tiny` (revision `v1`)" in card
        assert "from_pretrained(base, revision='v1')" in card
    assert "revision: v1" in (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")


def test_a_folder_has_no_revision(tiny_encoder: Path) -> None:
    with pytest.raises(SettingsError, match="revision is 'v1', which a hub id has, and .* is a folder; leave it out"):
        load_tokenizer(str(tiny_encoder), TASKS["sst2"], max_length=16, revision="v1")
