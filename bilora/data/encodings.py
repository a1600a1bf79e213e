"""Text from the bytes of a file, whatever encoding it was saved in."""

import codecs
import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from bilora.errors import DataError

# Of several that bytes may be in alike the first is taken, that of Windows in Western Europe. Encodings with several
# bytes a character are told apart too badly in short files.
ENCODINGS = ("cp1252", "cp1250", "cp1251")

# Longer ones first: a mark of UTF-32 begins with that of UTF-16.
MARKS = (
    *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)
NOT_ASCII = bytes(range(128, 256))

# Bytes of the file that are enough to tell; and of those that are not ASCII the fewest that are no accident.
LOOKED_AT = 200_000
ENOUGH = 2
# Half of a surrogate pair, as careless writers of UTF-8 leave it.
HALF = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")


def decode(path: Path, content: bytes) -> str:
    """Return the text of a file; what is not UTF-8 is told by a warning, and refused where it is a single fault."""
    return content.decode(find_encoding(path, lambda: io.BytesIO(content))).removeprefix("\ufeff")


def find_encoding(source: object, opened: Callable[[], BinaryIO], *, broken: bool = False) -> str:
    """Return the encoding of a file, told by a warning where it is not UTF-8.

    A line that is not UTF-8 among others that are, or one odd byte, is a single fault: it is refused, or with
    ``broken`` left to whoever reads the lines, as UTF-8.
    """
    first: tuple[int, int] | None = None
    head, has_utf8, others = bytearray(), False, 0
    with opened() as lines:
        # Line by line, which no character of UTF-8 crosses: the file need not fit into memory.
        for number, line in enumerate(lines, start=1):
            if len(head) < LOOKED_AT:
                head += line
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
                has_utf8 = True
            except UnicodeDecodeError as error:
                first = first or (number, error.start + 1)
                others += len(line) - len(line.translate(None, NOT_ASCII))
                has_utf8 = has_utf8 or HALF.search(line) is not None
    if first is None:
        return "utf-8"
    encoding = next((name for mark, name in MARKS if head.startswith(mark)), None) or _guess(bytes(head))
    # Where other lines are UTF-8, one that is not is broken: in another encoding all the others would be.
    is_broken = has_utf8 or others < ENOUGH
    if encoding is None or (encoding in ENCODINGS and is_broken):
        encoding = "utf-8" if broken and is_broken else None
    if encoding is None or not (encoding == "utf-8" or _is_in(encoding, opened)):
        raise DataError(f"{source}:{first[0]}: byte {first[1]} is not UTF-8; save the file as UTF-8")
    if encoding != "utf-8":
        what = f"is not UTF-8, and was read as {encoding}; if letters look wrong, save the file as UTF-8"
        warnings.warn(f"{source}: {what}", RuntimeWarning, stacklevel=3)
    return encoding


def _is_in(encoding: str, opened: Callable[[], BinaryIO]) -> bool:
    try:
        with opened() as lines:
            for _ in codecs.iterdecode(lines, encoding):
                pass
    except UnicodeDecodeError:
        return False
    return True


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
