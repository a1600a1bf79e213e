"""Text from the bytes of a file, whatever encoding it was saved in."""

import codecs
import re
import warnings
from pathlib import Path

from bilora.errors import DataError

# Of several that bytes may be in alike the first is taken, that of Windows in Western Europe. Encodings with several
# bytes a character are told apart too badly in short files.
ENCODINGS = ("cp1252", "cp1250", "cp1251")

# Longer ones first: a mark of UTF-32 begins with that of UTF-16.
MARKS = (
    *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)
# Bytes of the file that are enough to tell.
LOOKED_AT = 200_000


def decode(path: Path, content: bytes) -> str:
    """Return the text of a file; what is not UTF-8 is told by a warning, and refused where it is a single fault."""
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        fault = error
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), None) or _guess(content)
    # Where other lines are UTF-8, one that is not is broken: in another encoding all the others would be.
    if encoding is None or (encoding in ENCODINGS and _has_utf8(content)):
        raise _refusal(path, content, fault)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise _refusal(path, content, fault) from None
    what = f"is not UTF-8, and was read as {encoding}; if letters look wrong, save the file as UTF-8"
    warnings.warn(f"{path}: {what}", RuntimeWarning, stacklevel=3)
    return text.removeprefix("\ufeff")


def _guess(content: bytes) -> str | None:
    # Here, since it takes a while, which files in UTF-8 need not wait for.
    from charset_normalizer import from_bytes

    matches = from_bytes(content[:LOOKED_AT].rpartition(b"\n")[0] or content, cp_isolation=[*ENCODINGS])
    if (best := matches.best()) is None:
        return None
    alike = {
        name
        for match in matches
        if (match.chaos, match.coherence) == (best.chaos, best.coherence)
        for name in match.could_be_from_charset
    }
    return next((name for name in ENCODINGS if name in alike), best.encoding)


def _has_utf8(content: bytes) -> bool:
    for line in re.findall(rb"[^\n]*[\x80-\xff][^\n]*", content):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            continue
        return True
    return False


def _refusal(path: Path, content: bytes, error: UnicodeDecodeError) -> DataError:
    line = content.count(b"\n", 0, error.start) + 1
    column = error.start - content.rfind(b"\n", 0, error.start)
    return DataError(f"{path}:{line}: byte {column} is not UTF-8; save the file as UTF-8")
