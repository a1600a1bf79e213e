"""One training of the study of trusted rows: its rows, and the line of results that comes of it."""

import dataclasses
import time
from typing import Any

import numpy
from study_protocol import Job
from study_runs import TEST, Study, counted, names_of, pack, resampled, scores_of, unpack
from trusted_protocol import TrustedSetting
from trusted_roads import TRUSTED_ROADS, Place
from trusted_rows import draw

from bilora.errors import DivergedError
from bilora.runs.config import RunConfig


class TrustedStudy(Study):
    """A protocol of trusted rows on this machine."""

    def run(self, job: Job) -> dict[str, Any]:
        """Train, and return the line of results; that of a training that diverged has no scores."""
        begun = time.process_time()
        setting, place = self.setting(job), self.place(job)
        test, rows = self.sets(job.setting)[0].validation[TEST], place.rows
        line = {"job": job.name, **dataclasses.asdict(job), "run": dict(job.run), "rows": len(rows.doubtful)}
        line |= {"trusted": len(rows.trusted), "wrong": round(rows.wrong, 4)}
        start = time.process_time()
        try:
            trained = TRUSTED_ROADS[job.method](place)
        except DivergedError as error:
            return {**line, "failed": str(error), "cpu": {"fit": time.process_time() - start}}
        cpu = {"fit": time.process_time() - start}
        line |= {"failed": None, "steps": trained.steps, "upper_steps": trained.upper_steps, "learned": trained.learned}
        scores = scores_of(trained.answer(test), test, place.task, setting)
        answers, labels = unpack(scores["answers"]), numpy.asarray(test.labels, dtype=int)
        classes = counted(setting, names_of(place.task))
        # In place of the labels, which must not stand in a file that goes to others.
        scores["resampled"] = pack(resampled(answers, labels, setting.metrics[0], classes).tolist())
        return {**line, "test": scores, "cpu": {**cpu, "whole": time.process_time() - begun}}

    def labels(self, setting: str) -> dict[str, Any] | None:
        """Return None: each line has what the labels would be asked for."""
        return None

    def setting(self, job: Job) -> TrustedSetting:
        """Return the setting of a job."""
        setting = self.protocol.settings[job.setting]
        assert isinstance(setting, TrustedSetting)  # of a protocol of trusted rows
        return setting

    def place(self, job: Job) -> Place:
        """Return the rows of a job, and how its models are trained."""
        rows = self.sets(job.setting)[0]

        def config(method: str, values: dict[str, Any]) -> RunConfig:
            # A setting says how many doubtful rows there are, and they are drawn here.
            run = {**dict(job.run), "train_rows": None, **values}
            return self.config(Job(job.setting, method, job.seed, tuple(run.items())))

        return Place(draw(self.setting(job), rows.task, rows.train, seed=job.seed), rows.task, config)
