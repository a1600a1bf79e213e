"""Which columns of a file hold what a trained task reads, where they are called otherwise."""

from collections.abc import Mapping, Sequence

from bilora.data.rows import Row
from bilora.data.tables import Record
from bilora.errors import DataError, SettingsError, first_ten
from bilora.settings.lookup import did_you_mean
from bilora.tasks.labels import guess_text_columns


def find_text_columns(
    wanted: Sequence[str], rows: Sequence[Row], *, source: str, given: Sequence[str] | None, others: Sequence[str] = ()
) -> dict[str, str]:
    """Return the column of the file for each that a task wants, none where the file has those.

    Args:
        wanted: The columns of text of the training file.
        rows: Some rows of the file.
        source: What the file is called in messages.
        given: The columns that the user names, one for each of ``wanted``; None finds them by name and content.
        others: Columns that hold no text, such as the labels.

    Raises:
        DataError: The file does not have them, or several could be meant.
        SettingsError: So many columns are not what the task reads.
    """
    if given is not None and len(given) != len(wanted):
        what = f"reads {', '.join(map(repr, wanted))}" if wanted else "finds its input by itself"
        raise SettingsError(f"text_columns is {list(given)!r}, and the adapter {what}; name one for each, or none")
    there = dict.fromkeys(name for row in rows for name in row)
    if given is not None:
        if unknown := [name for name in given if name not in there and there]:
            near = did_you_mean(unknown[0], there)
            raise DataError(f"{source} has no column {unknown[0]!r}; it has: {first_ten(there)}.{near}")
        return dict(zip(wanted, given, strict=True))
    missing = [name for name in wanted if name not in there]
    if not missing or not there:
        return {}
    near = did_you_mean(missing[0], there)
    cure = f"{source} has no column {missing[0]!r}; it has: {first_ten(there)}; name them with --text-columns.{near}"
    # With one of two there, what the other is called nobody knows.
    if len(missing) < len(wanted):
        raise DataError(cure)
    try:
        found = guess_text_columns(rows, label_columns=others, source=source)
    except DataError:
        found = ()
    if len(found) != len(wanted):
        raise DataError(cure)
    return dict(zip(wanted, found, strict=True))


def with_columns(record: Record, columns: Mapping[str, str]) -> Record:
    """Return a record with its columns under the names that the task reads too."""
    line, row, faults = record
    if not columns or not row:
        return record
    # A column by the name of ours that was not chosen is not read.
    rest = {name: value for name, value in row.items() if name not in columns}
    return line, rest | {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}, faults


def columns_in_words(columns: Mapping[str, str], *, source: str) -> str:
    """Return a sentence on columns that were found under other names."""
    ours, theirs = (" and ".join(map(repr, names)) for names in (columns, columns.values()))
    return f"{source} has no {ours}: the text is in {theirs}; give --text-columns for others"
