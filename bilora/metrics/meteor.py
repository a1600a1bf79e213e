"""METEOR of a set of generated texts, by its authors' Java program where that is present."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bilora.errors import SettingsError
from bilora.metrics.coco import ptb_tokens
from bilora.metrics.metric import References, TextMetric

JAR_VARIABLE = "BILORA_METEOR_JAR"


class Meteor(TextMetric):
    """METEOR 1.5 for English (Denkowski and Lavie 2014), lower-cased and normalised, over tokens but punctuation."""

    # Needs Java, and the file meteor-1.5.jar with its data folder beside it: named by the environment variable, or as
    # the package pycocoevalcap has it (100 MB, no license stated, which is why it is no dependency). A METEOR without
    # them would be another metric: other packages leave out its paraphrase table or its weights.
    key = "meteor"

    def __init__(self) -> None:
        java = shutil.which("java")
        if java is None:
            raise SettingsError("metric 'meteor' needs Java, and no 'java' is on the PATH; install one or leave it out")
        self.java, self.jar = java, _jar()
        super().__init__()

    def score(self, predictions: Sequence[str], references: References) -> float:
        """Return METEOR as a fraction of one."""
        most = max(len(texts) for texts in references)
        # The program wants the same number of references for every item, and scores by the best one.
        padded = [text for texts in references for text in (*texts, *[texts[0]] * (most - len(texts)))]
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in ("outputs", "references")]
            for path, texts in zip(files, (predictions, padded), strict=True):
                lines = "".join(" ".join(ptb_tokens(text)) + "\n" for text in texts)
                path.write_text(lines, encoding="utf-8")
            return self._run(files, most)

    def _run(self, files: list[Path], references: int) -> float:
        command = [self.java, "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", str(self.jar), *map(str, files)]
        ended = subprocess.run(
            [*command, "-l", "en", "-norm", "-r", str(references)], capture_output=True, text=True, check=False
        )
        scores = [line.split()[-1] for line in ended.stdout.splitlines() if line.startswith("Final score:")]
        if ended.returncode or not scores:
            reason = (ended.stderr.strip() or ended.stdout.strip() or "no output").splitlines()[-1]
            raise SettingsError(f"METEOR ended with code {ended.returncode}: {reason} (command: {' '.join(command)})")
        return float(scores[0])


def _jar() -> Path:
    if (path := os.environ.get(JAR_VARIABLE)) is not None:
        if not Path(path).is_file():
            raise SettingsError(f"{JAR_VARIABLE} is {path!r}, where there is no file; name meteor-1.5.jar")
        return Path(path)
    # Found without importing it: only its data are needed.
    spec = importlib.util.find_spec("pycocoevalcap")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (jar := Path(folder, "meteor", "meteor-1.5.jar")).is_file():
            return jar
    raise SettingsError(
        f"metric 'meteor' needs meteor-1.5.jar: set {JAR_VARIABLE} to its path, or pip install --no-deps "
        "pycocoevalcap, which has one; or leave the metric out"
    )
