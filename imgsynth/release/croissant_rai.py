"""The responsible-AI part of croissant.json (Croissant RAI vocabulary 1.0): collection, protection, limits, use."""

from __future__ import annotations

from imgsynth.release import sentences as say
from imgsynth.release.facts import Facts


def rai(facts: Facts) -> dict[str, str | list[str]]:
    """Properties by name. What only the custodian knows is said to be open where it was not answered."""
    says, pre = facts.answers, facts.made["config"]["preprocess"]
    return {
        "rai:dataCollection": say.making(facts),
        "rai:dataCollectionType": ["Others: sampled from a generative model"],
        "rai:dataCollectionMissingData": "None: every synthetic patient has one image, and all that the table lists.",
        "rai:dataCollectionRawData": f"The generator learned from {say.cohort(facts)}.",
        "rai:dataPreprocessingProtocol": [
            f"Real images were brought to one public grid before training: {pre['fit']}, intensities by "
            f"{pre['intensity']}; samples are on that grid.",
        ],
        "rai:dataAnnotationProtocol": say.labels(facts),
        "rai:personalSensitiveInformation": [say.no_person(facts), say.protection(facts), say.audit(facts)],
        "rai:dataBiases": [say.biases(facts)],
        "rai:dataLimitations": [say.LIMITATIONS, say.NOT_THE_COHORT],
        "rai:dataUseCases": [say.INTENDED, f"Not for: {say.NOT_INTENDED}"],
        "rai:dataSocialImpact": says.ethics or say.open_question("release.ethics"),
        "rai:dataReleaseMaintenancePlan": f"Contact: {says.contact or say.open_question('release.contact')}",
    }
