"""What the scheduler sees of the jobs that are ready."""

from __future__ import annotations

from dataclasses import dataclass

from darkroom.run.picture_queue import IN_FLIGHT, PictureQueue


@dataclass(frozen=True)
class Job:
    name: str
    priority: int = 0
    engine: str | None = "tiny"


PAGE = Job("page", engine=None)
PICTURES = [Job(f"p{number}", 10 - number) for number in range(IN_FLIGHT + 2)]


class Bench:
    def __init__(self, *jobs: Job, engines: int = 1, cores: int = 1) -> None:
        self.running: set[Job] = set()
        self.shown: list[Job] = []
        self.queue = PictureQueue(
            lambda job: job.engine,
            lambda: self.running,
            self.shown.append,
            limit=IN_FLIGHT * engines,
            has_one_engine=engines == 1,
            has_one_core=cores == 1,
        )
        self.queue.update(jobs)

    def start(self) -> list[Job]:
        """Start all that may, as Snakemake does where nothing else limits it."""
        jobs = list(self.queue)
        self.running |= set(jobs)
        self.queue -= set(jobs)
        return jobs


def test_pictures_are_seen_in_the_order_of_their_priorities_and_no_more_than_fit() -> None:
    bench = Bench(*reversed(PICTURES))
    assert list(bench.queue) == bench.shown == PICTURES[:IN_FLIGHT]
    assert bench.start() == PICTURES[:IN_FLIGHT]
    assert bench.start() == []
    bench.running.discard(PICTURES[1])
    assert bench.start() == [PICTURES[IN_FLIGHT]]
    assert len(bench.queue) == 1


def test_each_engine_has_as_many() -> None:
    pictures = [Job(f"p{number}") for number in range(3 * IN_FLIGHT)]
    assert len(Bench(*pictures, engines=2).start()) == 2 * IN_FLIGHT


def test_with_one_engine_those_of_another_model_wait_for_the_end_of_all_that_are_in_flight() -> None:
    first, second = Job("a", 2, "one"), Job("b", 1, "two")
    bench = Bench(first, second)
    assert bench.start() == [first]
    assert bench.start() == []
    bench.running.clear()
    assert bench.start() == [second]
    assert Bench(first, second, engines=2).start() == [first, second]


def test_other_jobs_come_after_all_pictures_that_are_ready() -> None:
    bench = Bench(PAGE, *PICTURES, cores=2)
    assert PAGE not in bench.start()
    bench.running.clear()
    assert bench.start() == [*PICTURES[IN_FLIGHT:], PAGE]


def test_with_one_core_other_jobs_also_wait_for_those_in_flight() -> None:
    bench = Bench(PAGE, PICTURES[0])
    assert bench.start() == [PICTURES[0]]
    assert bench.start() == []
    bench.running.clear()
    assert bench.start() == [PAGE]


def test_a_job_that_failed_and_is_tried_again_is_seen_once() -> None:
    bench = Bench(*PICTURES[:2])
    first, second = bench.start()
    bench.running.clear()
    bench.queue.update([second, first, first])
    assert list(bench.queue) == [first, second]
    bench.queue.clear()
    assert (list(bench.queue), len(bench.queue), first in bench.queue) == ([], 0, False)
