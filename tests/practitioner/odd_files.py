"""Ordinary but odd files of labelled rows, each with the end that a colleague would expect of it."""

import gzip
import json
from typing import Any

from practitioner.making import (
    OddFile,
    Refused,
    Trained,
    arrow,
    delimited,
    json_lines,
    labelled,
    lines,
    nothing,
    sentences,
    several,
    sheet,
    table,
    written,
)

BOTH = ("negative", "positive")
CLASSES = Trained(("text",), "label", "classification", BOTH)
ROWS = labelled()
TEXT = delimited(ROWS)


def said(
    *more: str, texts: tuple[str, ...] = ("text",), label: str = "label", labels: tuple[str, ...] = BOTH
) -> Trained:
    return Trained(texts, label, "classification", labels, more)


def numbered(texts: int = 60) -> list[dict[str, Any]]:
    return [{"text": text, "label": round(1 + index * 0.13, 2)} for index, (text, _) in enumerate(sentences(texts))]


def changed(places: Any, **cells: Any) -> list[dict[str, Any]]:
    """Return the plain rows with other cells at some places."""
    return [{**row, **cells} if index in places else row for index, row in enumerate(ROWS)]


def tagged(names: tuple[Any, ...] = ("O", "B-PLACE"), *, tags: str = "tags") -> list[dict[str, Any]]:
    rows = []
    for text, _ in sentences(60):
        tokens = text.split()
        rows.append(
            {
                "tokens": tokens,
                tags: [names[token.strip(",") in ("Rome", "Monday", "night", "home")] for token in tokens],
            }
        )
    return rows


TOPICS = ("music", "food", "travel")
TOPICS_OF = [[name for place, name in enumerate(TOPICS) if index >> place & 1] for index in range(60)]
MANY = [{"text": text, "topics": names} for (text, _), names in zip(sentences(60), TOPICS_OF, strict=True)]
PAIRS = [
    {"premise": text, "hypothesis": f"it is so that {text[::-1]}", "label": ("no", "maybe", "yes")[kind]}
    for text, kind in sentences(60, kinds=3)
]

FORMS = {
    "comma": OddFile(written("rows.csv", TEXT), CLASSES, runs=True),
    "semicolon": OddFile(table(ROWS, delimiter=";"), said("the columns are parted by a semicolon")),
    "tab in csv": OddFile(table(ROWS, delimiter="\t"), said("the columns are parted by a tab")),
    "tsv": OddFile(table(ROWS, "rows.tsv", delimiter="\t"), CLASSES),
    "bar": OddFile(table(ROWS, delimiter="|"), said("the columns are parted by a bar")),
    "byte order mark": OddFile(written("rows.csv", TEXT, "utf-8-sig"), CLASSES),
    "latin-1": OddFile(
        written("rows.csv", TEXT.replace("hotel", "hôtel").replace("soup", "Käsesuppe"), "latin-1"),
        said("was read as cp1252"),
        runs=True,
    ),
    "utf-16": OddFile(table(ROWS, delimiter="\t"), said("the columns are parted by a tab")),
    "no header": OddFile(
        table(ROWS, header=False), said("the first row is no header", texts=("column_1",), label="column_2")
    ),
    "ends of lines of Windows": OddFile(table(ROWS, end="\r\n"), CLASSES),
    "line breaks in quotes": OddFile(table([{**row, "text": f'{row["text"]},\n"so"'} for row in ROWS]), CLASSES),
    "array": OddFile(written("rows.json", json.dumps(ROWS)), CLASSES),
    "object of arrays": OddFile(
        written("rows.json", json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]})), CLASSES
    ),
    "array inside of an object": OddFile(written("rows.json", json.dumps({"version": "1.1", "data": ROWS})), CLASSES),
    "lines called json": OddFile(written("rows.json", lines(ROWS)), CLASSES),
    "lines": OddFile(json_lines(ROWS), CLASSES, runs=True),
    "packed csv": OddFile(written("rows.csv.gz", gzip.compress(TEXT.encode())), CLASSES),
    "packed lines": OddFile(written("rows.jsonl.gz", gzip.compress(lines(ROWS).encode())), CLASSES),
    "parquet of datasets": OddFile(
        written("rows.parquet", arrow(labelled(names=(0, 1)), {"label": {"_type": "ClassLabel", "names": list(BOTH)}})),
        CLASSES,
        runs=True,
    ),
    "parquet of pandas": OddFile(written("rows.parquet", arrow(labelled(names=(0, 1)))), said(labels=("0", "1"))),
    "spreadsheet": OddFile(written("rows.xlsx", sheet(ROWS)), CLASSES),
    "spreadsheet of two sheets": OddFile(
        written("rows.xlsx", sheet(ROWS, more=True)), said("of its 2 sheets the first")
    ),
    "folder of sets": OddFile(
        several(table(ROWS[:40], "train.csv"), table(ROWS[40:50], "validation.csv"), table(ROWS[50:], "test.csv")),
        said("test.csv is not read"),
        runs=True,
    ),
    "folder of the hub": OddFile(
        several(
            written("data/train-00000-of-00002.parquet", arrow(ROWS[:30])),
            written("data/train-00001-of-00002.parquet", arrow(ROWS[30:50])),
            written("data/test-00000-of-00001.parquet", arrow(ROWS[50:])),
        ),
        CLASSES,
    ),
    "folder of none": OddFile(several(written("notes.txt", "to do")), Refused(("has no train set",))),
    "other end": OddFile(written("rows.txt", TEXT), Refused(("the name ends in none of .jsonl, .json, .csv",))),
    "nothing there": OddFile(nothing("rows.csv"), Refused(("No such file", "rows.csv"))),
    "empty": OddFile(written("rows.csv", ""), Refused(("has no row",))),
    "header alone": OddFile(written("rows.csv", "text,label\n"), Refused(("has no row",))),
    "cut archive": OddFile(
        written("rows.csv.gz", gzip.compress(TEXT.encode())[:200]), Refused(("rows.csv.gz: cannot be read",))
    ),
}

COLUMNS = {
    "sentence and category": OddFile(
        table(labelled(text="sentence", label="category")), said(texts=("sentence",), label="category")
    ),
    "capitals": OddFile(table(labelled(text="Text", label="Label")), said(texts=("Text",), label="Label")),
    "spaces in the header": OddFile(
        table(labelled(text=" text ", label=" label")), said(texts=(" text ",), label=" label")
    ),
    "tweet and target": OddFile(table(labelled(text="tweet", label="target")), said(texts=("tweet",), label="target")),
    "question and intent": OddFile(
        table(labelled(text="question", label="intent")), said(texts=("question",), label="intent")
    ),
    "comment and toxic": OddFile(
        table(labelled(names=(0, 1), text="comment", label="toxic")),
        said("the label is in 'toxic'", texts=("comment",), label="toxic", labels=("0", "1")),
        runs=True,
    ),
    "names in German": OddFile(
        table(labelled(names=("gut", "schlecht"), text="Bewertung", label="Urteil"), delimiter=";"),
        said("the label is in 'Urteil'", texts=("Bewertung",), label="Urteil", labels=("gut", "schlecht")),
    ),
    "index of pandas": OddFile(table([{"": index, **row} for index, row in enumerate(ROWS)]), CLASSES),
    "id, date and author": OddFile(
        table(
            [
                {"id": f"A-{index:03}", "date": f"2024-01-{1 + index % 28:02}", "author": f"Ann {index % 7}", **row}
                for index, row in enumerate(ROWS)
            ]
        ),
        CLASSES,
    ),
    "id, date and others' names": OddFile(
        table(
            [
                {"uid": index, "when": f"2024-01-{1 + index % 28:02}", "said": row["text"], "verdict": row["label"]}
                for index, row in enumerate(ROWS)
            ]
        ),
        said("the label is in 'verdict'", texts=("said",), label="verdict"),
    ),
    "title and body": OddFile(
        table(
            [
                {"title": f"On number {index}", "body": row["text"], "label": row["label"]}
                for index, row in enumerate(ROWS)
            ]
        ),
        said(texts=("title", "body")),
    ),
    "premise and hypothesis": OddFile(
        json_lines(PAIRS), said(texts=("premise", "hypothesis"), labels=("maybe", "no", "yes")), runs=True
    ),
    "two questions": OddFile(
        table(
            [
                {"question1": row["premise"], "question2": row["hypothesis"], "is_duplicate": index % 2}
                for index, row in enumerate(PAIRS)
            ]
        ),
        said(texts=("question1", "question2"), label="is_duplicate", labels=("0", "1")),
    ),
    "words without spaces": OddFile(
        table(
            [
                {
                    "word": f"{row['text'].split()[-1 - 4]}ly" + chr(97 + index % 26) * (index // 26 + 1),
                    "tone": row["label"],
                }
                for index, row in enumerate(ROWS)
            ]
        ),
        said(texts=("word",), label="tone"),
    ),
    "two that could be labels": OddFile(
        table(
            [
                {"said": row["text"], "tone": row["label"], "season": ("spring", "autumn")[index % 2]}
                for index, row in enumerate(ROWS)
            ]
        ),
        Refused(("tone, season", "--label-column")),
    ),
    "a column twice": OddFile(
        written("rows.csv", TEXT.replace("text,label", "text,text")), Refused(("is there twice",))
    ),
    "a wrong name": OddFile(
        table(ROWS), Refused(("has no column 'lable'", "Did you mean 'label'?")), ("--label-column", "lable")
    ),
}

LABELS = {
    "yes and no": OddFile(table(labelled(names=("no", "yes"))), said(labels=("no", "yes"))),
    "0 and 1": OddFile(table(labelled(names=(0, 1))), said(labels=("0", "1"))),
    "-1 and 1": OddFile(table(labelled(names=(-1, 1))), said(labels=("-1", "1"))),
    "truth values": OddFile(json_lines(labelled(names=(False, True))), said(labels=("False", "True"))),
    "true and false in csv": OddFile(table(labelled(names=("false", "true"))), said(labels=("false", "true"))),
    "0.0 and 1.0": OddFile(table(labelled(names=(0.0, 1.0))), said(labels=("0.0", "1.0"))),
    "stars": OddFile(
        table(labelled(100, (1, 2, 3, 4, 5), text="review", label="stars")),
        said(texts=("review",), label="stars", labels=("1", "2", "3", "4", "5")),
    ),
    "faces": OddFile(
        table([{**row, "text": f"{row['text']} 🎉"} for row in labelled(names=("😀", "😞"))]), said(labels=("😀", "😞"))
    ),
    "quantities": OddFile(table(numbered()), Trained(("text",), "label", "regression"), runs=True),
    "quantities with commas": OddFile(
        table([{**row, "label": str(row["label"]).replace(".", ",")} for row in numbered()], delimiter=";"),
        Trained(("text",), "label", "regression"),
    ),
    "a class of one row": OddFile(
        table([*ROWS, {"text": "the film was neither here nor there", "label": "mixed"}]),
        said("'mixed'", labels=("mixed", "negative", "positive")),
        runs=True,
    ),
    "one class": OddFile(table(labelled(names=("fine",))), Refused(("all fine", "needs two classes"))),
    "a label of its own for every row": OddFile(
        table([{"text": text, "label": f"ticket {index}"} for index, (text, _) in enumerate(sentences(60))]),
        Refused(("60 different labels", "--label-column")),
    ),
    "capitals that differ": OddFile(
        table(labelled(names=("Positive", "positive", "negative"))), Refused(("differ in capitals only", "--task-type"))
    ),
    "NA": OddFile(table(changed({3, 9}, label="NA")), Refused(("mark a missing value", "--task-type"))),
    "labels that are missing": OddFile(
        table(changed({3, 9}, label="")), Refused(("rows.csv:5", "needs a label", "--on-bad-row skip"))
    ),
    "labels that are missing, skipped": OddFile(
        table(changed({3, 9}, label="")), said("2 of 60 rows are left out"), ("--on-bad-row", "skip")
    ),
    "types that are mixed": OddFile(
        json_lines([{**row, "label": (1.5, "two", 3)[index % 3]} for index, row in enumerate(ROWS)]),
        Refused(("'two' is among them",)),
    ),
    "labels in one cell": OddFile(
        table([{**row, "topics": "|".join(row["topics"])} for row in MANY]),
        Trained(("text",), "topics", "multilabel_classification", TOPICS_IN_ORDER := tuple(sorted(TOPICS))),
        ("--label-column", "topics", "--label-separator", "|"),
        runs=True,
    ),
    "labels in columns": OddFile(
        table([{"text": row["text"], **{name: int(name in row["topics"]) for name in TOPICS}} for row in MANY]),
        Trained(("text",), ", ".join(TOPICS), "multilabel_classification", TOPICS),
        ("--label-column", *TOPICS),
    ),
    "labels in lists": OddFile(
        json_lines(MANY), Trained(("text",), "topics", "multilabel_classification", TOPICS_IN_ORDER)
    ),
    "tags": OddFile(
        json_lines(tagged()), Trained(("tokens",), "tags", "token_classification", ("O", "B-PLACE")), runs=True
    ),
    "tags of datasets": OddFile(
        written(
            "rows.parquet",
            arrow(
                tagged((0, 1), tags="ner_tags"),
                {"ner_tags": {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": ["O", "B-PLACE"]}}},
            ),
        ),
        Trained(("tokens",), "ner_tags", "token_classification", ("O", "B-PLACE")),
    ),
    "prompt and completion": OddFile(
        json_lines(
            [{"prompt": f"Say it the other way round: {text}", "completion": text[::-1]} for text, _ in sentences(60)]
        ),
        Trained(("prompt",), "completion", "generation"),
        ("--task-settings", '{"beams": 1, "max_new_tokens": 8}'),
        runs=True,
    ),
    "messages": OddFile(
        json_lines(
            [
                {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}]}
                for text, _ in sentences(60)
            ]
        ),
        Trained(("messages",), "messages", "generation"),
    ),
}

ROWS_OF_TEXT = {
    "sixty rows": OddFile(table(ROWS), CLASSES),
    "twenty rows": OddFile(table(labelled(20)), CLASSES, runs=True),
    "twelve rows": OddFile(table(labelled(12)), Refused(("12 ", "20"))),
    "texts that are empty": OddFile(
        table(changed({4}, text="")), Refused(("rows.csv:6", "is empty", "--on-bad-row skip"))
    ),
    "texts that are empty, skipped": OddFile(
        table(changed({4}, text=" ")), said("1 of 60 rows is left out"), ("--on-bad-row", "skip")
    ),
    "rows that are twice there": OddFile(table(ROWS * 2), said("have the text of a training row")),
    "texts far too long": OddFile(
        table(changed(range(0, 60, 7), text="a very long story " * 300)),
        said("9 of the 54 rows", "longer than max_length 32: the longest has 1202 tokens"),
    ),
    "a row of too many cells": OddFile(
        written("rows.csv", TEXT + "good, very good,positive\n"), Refused(("rows.csv:62", "has 3 fields", "quotes"))
    ),
    "a quote that nothing closes": OddFile(
        written("rows.csv", TEXT.replace("the film", '"the film', 1)), Refused(("rows.csv:", "is broken"))
    ),
    "a blank line": OddFile(written("rows.csv", TEXT.replace("\n", "\n\n", 2)), Refused(("the line is blank",))),
    "a broken line": OddFile(
        written("rows.jsonl", lines(ROWS) + '{"text": "cut'), Refused(("rows.jsonl:61", "is not a JSON object"))
    ),
}

ODD_FILES = {**FORMS, **COLUMNS, **LABELS, **ROWS_OF_TEXT}
