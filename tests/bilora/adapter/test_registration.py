"""BILORA in PEFT's tables: once, by either road, and never over someone else's."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

import bilora
from bilora.adapter.peft_type import BILORA, PlainPeftType, peft_type
from bilora.errors import BiloraError


def test_the_type_is_a_member_of_pefts_enum() -> None:
    assert BILORA is PeftType("BILORA") is PeftType["BILORA"] is PeftType.BILORA is peft_type("BILORA")
    assert list(PeftType).count(BILORA) == 1
    assert copy.deepcopy(BILORA) is BILORA is pickle.loads(pickle.dumps(BILORA))


@pytest.mark.parametrize("kind", [BILORA, PlainPeftType("BILORA")], ids=["member", "stand-in"])
def test_member_and_stand_in_have_what_peft_and_transformers_read(kind: PeftType) -> None:
    assert kind == "BILORA" and hash(kind) == hash("BILORA") and kind.value.lower() == "bilora"
    assert str(kind).partition(".")[-1] == "BILORA"
    assert json.dumps(kind) == '"BILORA"'
    assert copy.deepcopy(kind) == kind == pickle.loads(pickle.dumps(kind))


def test_registering_twice_changes_nothing() -> None:
    before = dict(PEFT_TYPE_TO_TUNER_MAPPING)
    bilora.register()
    assert before == PEFT_TYPE_TO_TUNER_MAPPING
    assert before["BILORA"] is bilora.BiloraModel


def test_a_method_of_that_name_from_elsewhere_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEFT_TYPE_TO_TUNER_MAPPING, BILORA, Path)
    with pytest.raises(BiloraError, match="already has a method BILORA, from pathlib"):
        bilora.register()
    assert PEFT_TYPE_TO_TUNER_MAPPING["BILORA"] is Path


CLOSED_ENUM = """
import enum, sys
sys.modules["betty"] = None  # bilora itself works without Betty

plain = enum.EnumType.__setattr__

def refuse(cls, name, value):
    if name == "BILORA":
        raise AttributeError(name)
    plain(cls, name, value)

enum.EnumType.__setattr__ = refuse
import peft, torch, bilora
assert "BILORA" not in peft.PeftType.__members__
torch.manual_seed(0)
base = torch.nn.Sequential(torch.nn.Linear(4, 4))
model = peft.get_peft_model(base, bilora.BiloraConfig(r=2, target_modules=["0"], init_weights=False))
x = torch.randn(3, 4)
expected = model(x).detach()
model.save_pretrained(sys.argv[1])
torch.manual_seed(0)
loaded = peft.PeftModel.from_pretrained(torch.nn.Sequential(torch.nn.Linear(4, 4)), sys.argv[1])
assert torch.equal(loaded(x), expected)
assert loaded.get_model_status().peft_types == {"default": "BILORA"}, loaded.get_model_status()
"""


def test_works_where_the_enum_refuses_and_betty_is_missing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", CLOSED_ENUM, str(tmp_path)], check=True)
    config = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(config, bilora.BiloraConfig) and config.peft_type is BILORA
