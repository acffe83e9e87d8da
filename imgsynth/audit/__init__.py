"""Does it leak? Attacks on the released samples, with controls that show whether the attack could have seen a leak."""

from imgsynth.audit.run import audit_run

__all__ = ["audit_run"]
