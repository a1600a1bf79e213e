"""Prompts and completions, and conversations, of one's own: read as they stand, and as TRL reads them."""

from pathlib import Path
from typing import Any

import pytest

from bilora.errors import DataError
from bilora.runs.columns import find_columns
from bilora.runs.config import RunConfig
from bilora.runs.plan import load_run_rows
from bilora.tasks.generation.prompts import AsWritten, Prompts
from bilora.tasks.generation.task import GenerationTask

TASK = GenerationTask("own")
QUESTION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
ANSWER = {"role": "assistant", "content": "Because.\nThat is all."}


def test_a_prompt_has_nothing_behind_it_and_its_completion_an_end(causal_tokenizer: Any) -> None:
    def ids(text: str) -> list[int]:
        return causal_tokenizer(text)["input_ids"]

    prompts = Prompts(causal_tokenizer)
    source = AsWritten("Translate:\n Haus =")
    assert prompts.prompt(source) == ids("Translate:\n Haus =")
    assert prompts.answer(" house", to=source) == [*ids(" house"), causal_tokenizer.eos_token_id]


def test_a_conversation_has_the_template_of_the_tokenizer(
    causal_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = AsWritten.of_messages(QUESTION)
    plain = "system: Be brief.\nuser: Why?\nassistant:\n"
    assert source == plain
    assert Prompts(causal_tokenizer).prompt(source) == causal_tokenizer(plain)["input_ids"]
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<go>{% endif %}"
    )
    monkeypatch.setattr(causal_tokenizer, "chat_template", template)
    ids = causal_tokenizer("<system>Be brief.<user>Why?<go>")["input_ids"]
    assert Prompts(causal_tokenizer).prompt(source) == ids


@pytest.mark.parametrize(
    ("row", "source", "reference"),
    [
        ({"prompt": "a\nb", "completion": " c\nd"}, "a\nb", " c\nd"),
        ({"messages": [*QUESTION, ANSWER]}, AsWritten.of_messages(QUESTION), ANSWER["content"]),
        ({"prompt": QUESTION, "completion": [ANSWER]}, AsWritten.of_messages(QUESTION), ANSWER["content"]),
    ],
)
def test_line_ends_stay_as_they_are(row: dict[str, Any], source: str, reference: str) -> None:
    checked, faults = TASK.check_row(row)
    assert not faults
    assert (checked["source"], checked["references"]) == (source, [reference])
    # To be answered, a row needs no answer.
    bare = {name: value[:-1] if name == "messages" else value for name, value in row.items() if name != "completion"}
    assert TASK.check_unlabelled((1, bare, []))[0]["source"] == source


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"messages": QUESTION}, "ends with a message of 'user'; the last one is what 'assistant' answers"),
        ({"messages": [{"role": "user"}]}, "message 1 has no role and content, both text"),
        ({"messages": [ANSWER]}, "has an answer alone"),
        ({"prompt": " ", "completion": "x"}, "is empty; every row needs text"),
        ({"prompt": "x", "completion": 3}, "is int; text is needed"),
    ],
)
def test_what_is_wrong_is_told(row: dict[str, Any], text: str) -> None:
    assert any(text in fault.text for fault in TASK.check_row(row)[1])


def test_completions_of_a_csv_that_look_like_numbers_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "sums.csv"
    path.write_text("prompt,completion\n" + "".join(f"{n} + 1 =,{n + 1}\n" for n in range(30)), encoding="utf-8")
    rows = load_run_rows(RunConfig(train_file=str(path), model="unread"))
    assert isinstance(rows.task, GenerationTask)
    assert rows.train[0]["references"] == ["1"]
    assert find_columns(RunConfig(train_file=str(path), model="unread")).texts == ("prompt",)
    config = RunConfig(train_file=str(path), task_type="generation", text_columns=["completion"], label_column="prompt")
    with pytest.raises(DataError, match="to generate, the columns are called prompt and completion, or messages"):
        load_run_rows(config)
