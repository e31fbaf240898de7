"""A job's name and summary come from where it is declared."""

from parhelion.registry import Estimate, JobParams, Result, declare


def _job(module: str) -> object:
    return declare(
        module,
        "Do a thing.\n\nAt length.\n",
        params=JobParams,
        run=lambda context, params: Result(),
        estimate=lambda params: Estimate(memory_bytes=1),
        outputs=(),
    )


def test_names_of_one_and_two_words() -> None:
    one, two = _job("parhelion.jobs.flip_hand"), _job("parhelion.jobs.simulate.particles")
    assert (one.name, one.identifier, one.page) == ("flip-hand", "flip_hand", "flip-hand.md")
    assert (two.name, two.identifier, two.page) == (
        "simulate particles",
        "simulate_particles",
        "simulate-particles.md",
    )


def test_summary_and_description_come_from_the_docstring() -> None:
    job = _job("parhelion.jobs.mask")
    assert (job.summary, job.description) == ("Do a thing", "At length.")
