"""Is it any good? Fidelity, diversity and utility, each with an interval over patients and a real-versus-real floor."""

from imgsynth.evaluate.run import evaluate_run

__all__ = ["evaluate_run"]
